"""Command-line flags: every field of :class:`Sweep` and :class:`Confirm` is one, with the script's value as default."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sweeps.engine.fields import BUDGET, CONFIRM, HYPERPARAMETERS, OF_TASK, RESOURCES, TRIED, WHERE
from sweeps.engine.hyperparameter_flags import add_hyperparameters, add_settings, check_settings, flag_of
from sweeps.engine.parser import Formatter, Parser, parse_known
from sweeps.engine.readers import FIELD_READERS, PAIR_READERS, READERS
from sweeps.engine.sweep import Confirm, Sweep
from sweeps.engine.task_field import task_name
from sweeps.search.checks import SweepError, refuse
from trainables.hyperparameters import RESERVED
from trainables.settings import Setting

GROUPS = (TRIED, OF_TASK, HYPERPARAMETERS, BUDGET, CONFIRM, RESOURCES, WHERE)
"""Headings of ``--help``, in order."""

EXIT_CODES = "Exit codes: 0 the sweep ran, 1 it could not finish or measured nothing, 2 bad input and nothing started."

SEARCH_ONLY = (
    *("num_trials", "scheduler", "grace_period", "reduction_factor", "searcher", "confirm_top_k"),
    *("stop_at", "patience", "min_delta", "budget_usd", "budget_hours"),
)
"""Fields that say nothing where nothing is searched."""


@dataclasses.dataclass(frozen=True)
class _Flag:
    """One flag: the field that it sets and what to say about it."""

    field: str
    name: str
    kind: type
    help: str
    group: str
    metavar: str
    default: object


def parse(
    sweep: Sweep, argv: Sequence[str], prog: str | None = None, settings: Mapping[str, Setting] | None = None
) -> Sweep:
    """The sweep with the given flags in place of its fields.

    A budget in epochs on the command line replaces the script's budget in steps, and the other way round. ``--space``
    adds to the script's space, by name.

    Args:
        sweep: the script's declaration.
        argv: the arguments, without the program's name.
        prog: the program's name in ``--help``.
        settings: hyperparameters of the task, which are flags then, as are those of the loop.

    Raises:
        SweepError: a flag is unknown or its value cannot be used; one line that names it.
        SystemExit: code 0, after ``--help``.
    """
    given = parse_known(build_parser(sweep, prog, settings=settings), argv)
    if settings is None:
        return _apply(sweep, given)
    declared = _apply_naming_flags(sweep, given, (*RESERVED, *settings))
    check_settings(declared.space, settings, needs_all=declared.points is None)
    return declared


def parse_run(argv: Sequence[str], prog: str = "ampsweep run") -> Sweep:
    """The sweep that ``ampsweep run TASK`` and its flags declare; its name is the task's module or file unless given.

    Args:
        argv: the arguments, without the program's name.
        prog: the program's name in ``--help``.

    Raises:
        SweepError: the task is missing, a flag is unknown, or a value cannot be used; one line that names it.
        SystemExit: code 0, after ``--help``.
    """
    given = parse_known(build_parser(None, prog), argv)
    task = given.pop("task")
    return _apply(Sweep(name=given.pop("name", _name_of_task(task)), task=task, space={}), given)


def parse_task(sweep: Sweep, argv: Sequence[str], prog: str | None = None) -> Sweep:
    """The sweep, which searches nothing, with the given task and flags, among them the loop's hyperparameters.

    Args:
        sweep: the script's declaration; its task is the default.
        argv: the arguments, without the program's name.
        prog: the program's name in ``--help``.

    Raises:
        SweepError: a flag is unknown or its value cannot be used; one line that names it.
        SystemExit: code 0, after ``--help``.
    """
    given = parse_known(build_parser(sweep, prog, takes_task=True), argv)
    return _apply_naming_flags(sweep, given, RESERVED)


def _apply_naming_flags(sweep: Sweep, given: Mapping[str, Any], names: Sequence[str]) -> Sweep:
    """As :func:`_apply`; errors of hyperparameters that are flags name the flags."""
    try:
        return _apply(sweep, given)
    except SweepError as error:
        name, _, rest = str(error).removeprefix("space['").partition("']: ")
        raise SweepError(f"{flag_of(name)}: {rest}" if name in names else str(error)) from None


def build_parser(
    sweep: Sweep | None = None,
    prog: str | None = None,
    takes_task: bool = False,
    settings: Mapping[str, Setting] | None = None,
) -> argparse.ArgumentParser:
    """The parser of a script's flags, or of ``ampsweep run``'s where there is no script.

    Args:
        sweep: where the defaults that ``--help`` shows come from; ``None`` takes the task as an argument.
        prog: the program's name in ``--help``.
        takes_task: of a sweep without a search: the task is an argument, too, and the loop's hyperparameters are flags.
        settings: hyperparameters of the sweep's task, which are flags then, as are those of the loop.
    """
    parser = Parser(
        prog=prog,
        usage=f"%(prog)s {'[TASK] ' if takes_task else '' if sweep else 'TASK '}[flags]",
        description=_describe(sweep),
        epilog=EXIT_CODES,
        formatter_class=Formatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    left_out = ("task", *SEARCH_ONLY) if takes_task else () if sweep else ("task",)
    if sweep is None:
        groups[TRIED].add_argument("task", metavar="TASK", help=_field_help(Sweep, "task"))
    if sweep is not None and takes_task:
        about = f"{_field_help(Sweep, 'task')} (default: {task_name(sweep.task)})"
        groups[TRIED].add_argument("task", metavar="TASK", nargs="?", help=about)
        add_hyperparameters(groups[HYPERPARAMETERS])
    if settings is not None:
        add_settings(groups[OF_TASK], settings)
        add_hyperparameters(groups[HYPERPARAMETERS], takes_domains=True)
    for flag in _flags(sweep):
        if flag.field not in left_out:
            _add(groups[flag.group], flag)
    groups[WHERE].add_argument("--help", "-h", action="help", help="show this and stop")
    return parser


def _flags(sweep: Sweep | None) -> Iterator[_Flag]:
    """Every flag, in the order of the fields."""
    confirm = sweep.confirm if sweep is not None and sweep.confirm is not None else Confirm()
    for owner, prefix, values in ((Sweep, "", sweep), (Confirm, "confirm_", confirm)):
        kinds = typing.get_type_hints(owner)
        for entry in dataclasses.fields(owner):
            if entry.name == "confirm":
                continue
            fallback = None if entry.default is dataclasses.MISSING else entry.default
            yield _Flag(
                field=prefix + entry.name,
                name=flag_of(prefix + entry.name),
                kind=_kind(entry.name, kinds[entry.name]),
                default=getattr(values, entry.name) if values is not None else fallback,
                **entry.metadata,
            )


def _kind(name: str, hint: Any) -> type:
    """The type by which a flag's text is read: dict, tuple, bool, int, float or str."""
    if name in PAIR_READERS:
        return dict
    for kind in (typing.get_origin(hint) or hint, *typing.get_args(hint)):
        if kind in (tuple, bool, int, float, str):
            return typing.cast(type, kind)
    return str


def _add(group: Any, flag: _Flag) -> None:
    """Adds one flag to a group of the parser."""
    help_text = _with_default(flag)
    if flag.kind is bool:
        group.add_argument(flag.name, dest=flag.field, action="store_true", help=help_text)
    elif flag.kind is dict:
        reader: Any = PAIR_READERS[flag.field]
        group.add_argument(
            flag.name, dest=flag.field, action="append", type=reader, metavar=flag.metavar, help=help_text
        )
    else:
        reader = FIELD_READERS.get(flag.field) or READERS[flag.kind]
        group.add_argument(flag.name, dest=flag.field, type=reader, metavar=flag.metavar, help=help_text)


def _with_default(flag: _Flag) -> str:
    unset = flag.default in (None, ()) or flag.kind in (bool, dict)
    return (flag.help if unset else f"{flag.help} (default: {_shown(flag.default)})").replace("%", "%%")


def _shown(default: object) -> str:
    """A default as a flag takes it; the class of an object."""
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, Mapping):
        return ",".join(f"{name}={value:g}" for name, value in default.items())
    if isinstance(default, float):
        return f"{default:g}"
    if callable(default):
        return task_name(default)
    return str(default) if isinstance(default, str | int) else type(default).__name__


def _field_help(owner: Any, name: str) -> str:
    return next(str(entry.metadata["help"]) for entry in dataclasses.fields(owner) if entry.name == name)


def _describe(sweep: Sweep | None) -> str:
    if sweep is None:
        return "Sweeps precisions and hyperparameters of a task, confirms the winners and gives verdicts."
    space = "\n".join(f"  {name}={value}" for name, value in sweep.space.items()) or "  (empty)"
    return f"The sweep {sweep.name!r} over {task_name(sweep.task)}, with the space\n{space}".replace("%", "%%")


def _apply(sweep: Sweep, given: Mapping[str, Any]) -> Sweep:
    """The sweep with given values in place of its fields, validated."""
    values = dict(given)
    confirm = {name.removeprefix("confirm_"): values.pop(name) for name in given if name.startswith("confirm_")}
    if "space" in values:
        remedy = "for several values write {}=choice:A,B"
        values["space"] = {**sweep.space, **_once("space", "hyperparameter", values["space"], remedy)}
    if "stop_at" in values:
        values["stop_at"] = {**(sweep.stop_at or {}), **_once("stop_at", "metric", values["stop_at"], "give {} one")}
    if "max_epochs" in values:
        values = {"max_steps": None, "report_every_steps": None, **values}
    elif "max_steps" in values:
        values["max_epochs"] = None
    if confirm:
        values["confirm"] = dataclasses.replace(sweep.confirm or Confirm(), **confirm)
    return dataclasses.replace(sweep, **values)


def _once(field: str, what: str, pairs: Sequence[tuple[str, Any]], remedy: str) -> dict[str, Any]:
    """Values by name; two of one name are rather a mistake than a change of mind."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            given = f"{name}={found[name]} {name}={value}"
            refuse(field, f"must name each {what} once", given, remedy.format(name))
        found[name] = value
    return found


def naming_flags(message: str) -> str:
    """An error's message with the names of flags in place of those of fields."""
    field, colon, rest = message.partition(": ")
    names = {flag.field.replace("confirm_", "confirm.", 1): flag.name for flag in _flags(None) if flag.field != "task"}
    field = re.sub(r"^space\['(.*)'\]$", r"--space \1", field)
    first, *others = field.split(", ")
    if all(other in names for other in others):  # as cpus_per_trial, gpus_per_trial; not as points, line 3, seed
        others = [names[other] for other in others]
    return ", ".join([names.get(first, first), *others]) + colon + rest


def _name_of_task(task: str) -> str:
    """The last part of the task's module, or its file's name without the ending."""
    source = task.rpartition(":")[0] or task
    return PurePath(source).stem if source.endswith(".py") else source.rpartition(".")[2]
