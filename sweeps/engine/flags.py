"""Command-line flags: every field of :class:`Sweep` and :class:`Confirm` is one, with the script's value as default."""

import argparse
import dataclasses
import re
import shutil
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

from sweeps.engine.fields import BUDGET, CONFIRM, RESOURCES, TRIED, WHERE
from sweeps.engine.sweep import Confirm, Sweep
from sweeps.search.checks import SweepError, did_you_mean, refuse
from sweeps.search.domains import Domain, Scalar
from sweeps.search.space import parse_domain

GROUPS = (TRIED, BUDGET, CONFIRM, RESOURCES, WHERE)
"""Headings of ``--help``, in order."""

EXIT_CODES = "Exit codes: 0 the sweep ran, 1 it could not finish or measured nothing, 2 bad input and nothing started."

_REWRITTEN = (
    (r"expected one argument", "needs a value, got nothing; see --help"),
    (r"ignored explicit argument (.*)", r"takes no value, got \1; give the flag alone"),
    (
        r"the following arguments are required: TASK",
        "TASK: must be given, got nothing; write module:function or path/to/file.py:function",
    ),
    (r"the following arguments are required: (.*)", r"\1: must be given, got nothing; see --help"),
    (r"invalid choice: ('.*') \(choose from (.*)\)", r"must be a known name, got \1; valid: \2"),
)
"""What argparse says, as patterns, and the same in the words of the other errors."""

_HIGHEST_WIDTH = 110
"""Columns of ``--help`` at most: longer lines are hard to read."""


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


def parse(sweep: Sweep, argv: Sequence[str], prog: str | None = None) -> Sweep:
    """The sweep with the given flags in place of its fields.

    A budget in epochs on the command line replaces the script's budget in steps, and the other way round. ``--space``
    adds to the script's space, by name.

    Args:
        sweep: the script's declaration.
        argv: the arguments, without the program's name.
        prog: the program's name in ``--help``.

    Raises:
        SweepError: a flag is unknown or its value cannot be used; one line that names it.
        SystemExit: code 0, after ``--help``.
    """
    given = parse_known(build_parser(sweep, prog), argv)
    return _apply(sweep, given)


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


def build_parser(sweep: Sweep | None = None, prog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a script's flags, or of ``ampsweep run``'s where there is no script.

    Args:
        sweep: where the defaults that ``--help`` shows come from; ``None`` takes the task as an argument.
        prog: the program's name in ``--help``.
    """
    parser = Parser(
        prog=prog,
        usage="%(prog)s [flags]" if sweep else "%(prog)s TASK [flags]",
        description=_describe(sweep),
        epilog=EXIT_CODES,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    if sweep is None:
        groups[TRIED].add_argument("task", metavar="TASK", help=_field_help(Sweep, "task"))
    for flag in _flags(sweep):
        if sweep is not None or flag.field != "task":
            _add(groups[flag.group], flag)
    groups[WHERE].add_argument("--help", "-h", action="help", help="show this and stop")
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help texts in a column of their own, at a readable width."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns - 2, _HIGHEST_WIDTH)
        super().__init__(prog, max_help_position=32, width=width)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, raised instead of printed with the usage."""

    def error(self, message: str) -> NoReturn:
        """Raises the error in the words of all others."""
        for original, rewritten in _REWRITTEN:
            message = re.sub(original, rewritten, message, flags=re.DOTALL)
        raise SweepError(message.removeprefix("argument "))


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
                name="--" + (prefix + entry.name).replace("_", "-"),
                kind=_kind(entry.name, kinds[entry.name]),
                default=getattr(values, entry.name) if values is not None else fallback,
                **entry.metadata,
            )


def _kind(name: str, hint: Any) -> type:
    """The type by which a flag's text is read: dict, tuple, bool, int, float or str."""
    if name == "space":
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
        group.add_argument(
            flag.name, dest=flag.field, action="append", type=_read_parameter, metavar=flag.metavar, help=help_text
        )
    else:
        reader = _READERS[flag.kind]
        group.add_argument(flag.name, dest=flag.field, type=reader, metavar=flag.metavar, help=help_text)


def _with_default(flag: _Flag) -> str:
    unset = flag.default is None or flag.kind in (bool, dict)
    return (flag.help if unset else f"{flag.help} (default: {_shown(flag.default)})").replace("%", "%%")


def _shown(default: object) -> str:
    """A default as a flag takes it; the class of an object."""
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, float):
        return f"{default:g}"
    return str(default) if isinstance(default, str | int) else type(default).__name__


def _field_help(owner: Any, name: str) -> str:
    return next(str(entry.metadata["help"]) for entry in dataclasses.fields(owner) if entry.name == name)


def _describe(sweep: Sweep | None) -> str:
    if sweep is None:
        return "Sweeps precisions and hyperparameters of a task, confirms the winners and gives verdicts."
    space = "\n".join(f"  {name}={value}" for name, value in sweep.space.items()) or "  (empty)"
    return f"The sweep {sweep.name!r} over {sweep.task}, with the space\n{space}".replace("%", "%%")


def read_whole(written: str) -> int:
    """A flag's value as a whole number."""
    try:
        return int(written)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {written!r}; for example 8") from None


def _read_number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {written!r}; for example 0.5") from None


def _read_names(written: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in written.split(","))
    if not all(names):
        remedy = "separate names by single commas, such as fp32,bf16-mixed"
        raise argparse.ArgumentTypeError(f"must not have an empty name, got {written!r}; {remedy}")
    return names


def _read_parameter(written: str) -> tuple[str, Domain | Scalar]:
    name, equals, domain = written.partition("=")
    if not name.strip() or not equals:
        remedy = "for example learning_rate=loguniform:1e-5:1e-3"
        raise argparse.ArgumentTypeError(f"must be NAME=DOMAIN, got {written!r}; {remedy}")
    try:
        return name.strip(), parse_domain(domain)
    except SweepError as error:
        raise argparse.ArgumentTypeError(f"{name.strip()}: {error}") from None


_READERS: Mapping[type, Callable[[str], object]] = {
    int: read_whole,
    float: _read_number,
    str: str,
    tuple: _read_names,
}


def parse_known(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by field."""
    namespace, unknown = parser.parse_known_args(list(argv))
    if unknown:
        _refuse_unknown(parser, unknown)
    return vars(namespace)


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is None:
        raise SweepError(f"arguments: must be flags, got {unknown[0]!r}; flags start with --, see --help")
    flag = flag.partition("=")[0]
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    raise SweepError(f"{flag}: must be a known flag, got {flag!r}; {did_you_mean(flag, known)}see --help")


def _apply(sweep: Sweep, given: Mapping[str, Any]) -> Sweep:
    """The sweep with given values in place of its fields, validated."""
    values = dict(given)
    confirm = {name.removeprefix("confirm_"): values.pop(name) for name in given if name.startswith("confirm_")}
    if "space" in values:
        values["space"] = {**sweep.space, **_once(values["space"])}
    if "max_epochs" in values:
        values = {"max_steps": None, "report_every_steps": None, **values}
    elif "max_steps" in values:
        values["max_epochs"] = None
    if confirm:
        values["confirm"] = dataclasses.replace(sweep.confirm or Confirm(), **confirm)
    return dataclasses.replace(sweep, **values)


def _once(parameters: Sequence[tuple[str, Domain | Scalar]]) -> dict[str, Domain | Scalar]:
    """The parameters by name; two of one name are rather a mistake than a change of mind."""
    space: dict[str, Domain | Scalar] = {}
    for name, value in parameters:
        if name in space:
            given = f"{name}={space[name]} {name}={value}"
            refuse("space", "must name each hyperparameter once", given, f"for several values write {name}=choice:A,B")
        space[name] = value
    return space


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
