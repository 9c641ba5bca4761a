"""The command line: what a sweep script's ``main`` does, and the commands of ``ampsweep``."""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from analysis.schema import ResultsError
from sweeps.engine.flags import naming_flags, parse, parse_run, parse_task
from sweeps.engine.hyperparameter_flags import flag_of
from sweeps.engine.leaving import is_ray_silent
from sweeps.engine.parser import Parser, parse_known
from sweeps.engine.sweep import Sweep, SweepError
from sweeps.search.checks import Unfinished, did_you_mean
from sweeps.search.domains import Domain
from trainables.ladder import LADDER
from trainables.loading import TaskError
from trainables.settings import Setting
from trainables.storage import Url, is_url
from trainables.text import one_line

if TYPE_CHECKING:
    from analysis import Results

BAD_INPUT, FAILED, NOT_PASSED = 2, 1, 3
"""Exit codes: nothing was started; it could not finish, or measured nothing; a required PASS is missing."""


def main(
    sweep: Sweep,
    argv: Sequence[str] | None = None,
    *,
    settings: Mapping[str, Setting] | None = None,
    check: Callable[[Mapping[str, Any]], object] | None = None,
) -> NoReturn:
    """Runs a sweep as a script: flags, progress, the report, an exit code.

    Args:
        sweep: the script's declaration, which the flags change.
        argv: the flags; default: those of the process.
        settings: hyperparameters of the task, by name: they become flags, as do those of the loop, and each takes a
            constant or a domain.
        check: called with the hyperparameters that have a single value, before anything starts; it raises
            :class:`trainables.loading.TaskError` for what the task cannot use, such as a file that does not exist.
    """
    words = sys.argv[1:] if argv is None else argv
    _exit(lambda: _run(_checked(parse(sweep, words, settings=settings), check)), settings or ())


def _checked(sweep: Sweep, check: Callable[[Mapping[str, Any]], object] | None) -> Sweep:
    if check is not None:
        check({name: value for name, value in sweep.space.items() if not isinstance(value, Domain)})
    return sweep


def main_with_task(sweep: Sweep, argv: Sequence[str] | None = None) -> NoReturn:
    """As :func:`main`, for a sweep without a search of any task: the task is an argument, the loop's hyperparameters
    are flags, and all others are given by ``--space NAME=VALUE``.

    Args:
        sweep: the script's declaration.
        argv: the arguments; default: those of the process.
    """
    _exit(lambda: _run(parse_task(sweep, sys.argv[1:] if argv is None else argv)))


def ampsweep(argv: Sequence[str] | None = None) -> NoReturn:
    """The ``ampsweep`` command.

    Args:
        argv: the arguments; default: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, tuple[Callable[[list[str]], int], str]] = {
        "run": (lambda rest: _run(parse_run(rest)), "run a sweep of a task that has no script"),
        "probe": (_probe, "which precisions this machine can train a task in"),
        "export": (_export, "the best trial's weights, configuration and verdicts, ready to load"),
        "report": (_report, "verdicts and tables of a sweep's results"),
        "compare": (_compare, "a model against a baseline on test data: loss, accuracy, speed, size"),
        "doctor": (_doctor, "what this machine and cluster have, and what to do about each problem"),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: ampsweep COMMAND ...\n\ncommands (each explains itself with --help):")
        print("\n".join(f"  {name:<10}{what}" for name, (_, what) in commands.items()))
        sys.exit(0 if arguments else BAD_INPUT)
    if arguments[0] not in commands:
        remedy = f"{did_you_mean(arguments[0], commands)}see ampsweep --help"
        _fail(f"command: must be one of {', '.join(commands)}, got {arguments[0]!r}; {remedy}", BAD_INPUT)
    _exit(lambda: commands[arguments[0]][0](arguments[1:]))


def _exit(command: Callable[[], int], flags: Collection[str] = ()) -> NoReturn:
    """Ends the process with a command's exit code; errors name hyperparameters in ``flags`` by their flags."""
    _open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that a terminal cannot show must not end what runs
    # A spot notice, `ray job stop` and Kubernetes end a driver so; it is to leave in good order, as for Ctrl-C.
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # where a terminal closes, as that of `ray submit`
        signal.signal(signal.SIGHUP, _leave)
    try:
        _quit(command())
    except SweepError as error:
        _fail(naming_flags(str(error)), BAD_INPUT)
    except (TaskError, ResultsError) as error:
        field, colon, rest = str(error).partition(":")
        _fail(f"{flag_of(field) if field in flags else field}{colon}{rest}", BAD_INPUT)
    except Unfinished as error:
        _fail(str(error), FAILED)
    except KeyboardInterrupt as error:
        _fail("; ".join(["interrupted", *map(str, error.args)]), FAILED)


def _open_streams() -> None:
    """Opens the standard streams that whoever started the process has closed: Ray does not start without, and what is
    opened next would have their numbers, and so what other processes print.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process


def _leave(*told: object) -> NoReturn:
    """Ends what runs, once: a second signal, as of a scheduler that tells all processes, cuts nothing short."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    print(one_line(f"error: {message}"), file=sys.stderr)
    _quit(code)


def _quit(code: int) -> NoReturn:
    if is_ray_silent():  # at the process's exit, Ray would wait for what has ended
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                print(end="", file=stream, flush=True)
        os._exit(code)
    sys.exit(code)


def _run(sweep: Sweep) -> int:
    if sweep.dry_run:
        from sweeps.engine.dry_run import describe

        print(describe(sweep))
        return 0
    from rich.console import Console
    from rich.text import Text

    from sweeps.engine.stages import run

    results = run(sweep)
    from analysis.tables import print_report

    console, where = Console(), f"results: {_where(sweep.storage, results.folders)}"
    try:
        print_report(results, console)
        console.print(Text(where), soft_wrap=True)
    except OSError as error:  # as of a log whose disk is full
        raise Unfinished(f"the report cannot be shown ({error.strerror}); {where}") from error
    return _ended(results)


def _where(storage: str, folders: Mapping[str, Path]) -> str:
    """Where results lie; the copy here of what lies in an object store goes with this process."""
    ((run_name, folder),) = folders.items()
    return (Url(storage) / run_name).shown if is_url(storage) else str(folder)


def _ended(results: "Results") -> int:
    """0, or what a sweep that came to nothing ends with."""
    from analysis.shortfall import shortfall

    reason = shortfall(results)
    return 0 if reason is None else _fail(reason, FAILED)


def _probe(argv: list[str]) -> int:
    from rich.console import Console

    from analysis.probe_tables import print_probe
    from sweeps.engine.stages import run

    # What the user gives comes later and so wins.
    sweep = parse_run(["--precisions", ",".join(LADDER), "--stage", "probe", *argv], prog="ampsweep probe")
    if sweep.dry_run:
        return _run(sweep)
    results = run(sweep)
    print_probe(results, Console())
    return _ended(results)


def _export(argv: list[str]) -> int:
    from sweeps.engine.export import export

    return export(argv)


def _compare(argv: list[str]) -> int:
    from sweeps.engine.compare import compare

    return compare(argv)


def _report(argv: list[str]) -> int:
    parser = Parser(prog="ampsweep report", description="Verdicts and tables of a sweep's results.", allow_abbrev=False)
    parser.add_argument("folder", metavar="DIR", nargs="+", help="the results' folder; several are shown together")
    parser.add_argument(
        "--require-pass",
        metavar="PRECISION",
        choices=list(LADDER),
        help="exit with 3 unless every device type has a PASS of it against its strongest baseline",
    )
    arguments = argparse.Namespace(**parse_known(parser, argv))
    from rich.console import Console

    from analysis import load
    from analysis.tables import print_report
    from analysis.verdicts import passes

    results = load(*arguments.folder)
    print_report(results, Console())
    if arguments.require_pass is None:
        return 0
    return 0 if passes(results.verdicts, arguments.require_pass) else NOT_PASSED


def _doctor(argv: list[str]) -> int:
    from sweeps.engine.doctor.command import doctor

    return doctor(argv)
