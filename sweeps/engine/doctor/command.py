"""``ampsweep doctor``: flags, and what it prints."""

import json
from collections.abc import Sequence

from sweeps.engine.parser import Parser, parse_known
from sweeps.search.checks import text

EXIT_CODES = "Exit codes: 0 nothing stops a sweep, 1 something does (the last line says what), 2 bad flags."


def doctor(argv: Sequence[str]) -> int:
    """Prints what this machine and cluster have, and what to do about each problem found.

    Args:
        argv: the arguments, without the command's name.

    Returns:
        the exit code.

    Raises:
        SweepError: a flag cannot be used.
        SystemExit: code 0, after ``--help``.
    """
    given = parse_known(_parser(), argv)
    place = text("--storage", given["storage"], "for example runs")
    from rich.console import Console

    from sweeps.engine.doctor.report import examine

    with Console(stderr=True).status("looking around and measuring, about 5 s"):
        report = examine(given["address"], place)
    if given["json"]:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from sweeps.engine.doctor.tables import print_report

        print_report(report, Console())
    return 1 if report.stops else 0


def _parser() -> Parser:
    parser = Parser(
        prog="ampsweep doctor",
        description="What this machine and cluster have, and what to do about each problem found. Starts no Ray.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="a running Ray cluster; else RAY_ADDRESS, else this machine"
    )
    parser.add_argument("--storage", metavar="PLACE", default="runs", help="folder for results (default: runs)")
    parser.add_argument("--json", action="store_true", help="print JSON: what stops a sweep, all findings, all rates")
    return parser
