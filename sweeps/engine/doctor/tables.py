"""The doctor's report as text for a terminal or a log."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.engine.doctor.facts import Finding, Measured
from sweeps.engine.doctor.report import Report
from sweeps.engine.doctor.words import rate as in_words
from trainables.rates import MatrixRate

SHOWN_NODES = 4
"""Names of nodes that a line lists."""


def print_report(report: Report, console: Console) -> None:
    """Print what there is by area, the rates of each device, then each problem with what to do about it.

    Args:
        report: what was found.
        console: 80 columns are enough.
    """
    for area in dict.fromkeys(finding.area for finding in report.findings if finding.area != "rates"):
        _print_part(console, area, findings_table([f for f in report.findings if f.area == area]))
    for measured in report.measured:
        _print_part(console, f"matrix products on {measured.device}", rates_table(measured), NOTE)
        for name, reason in {rate.format: rate.reason for rate in measured.rates if rate.reason}.items():
            console.print(Text(f"{name}: {reason}", "dim"), soft_wrap=True)
    _print_problems(console, report)


NOTE = "Square matrices; of up to 20 products the fastest, since other work can only make one slower."


def findings_table(findings: Sequence[Finding]) -> Table:
    """A row for every finding, those with a problem marked; where they were found, if on nodes of a cluster."""
    table = _table()
    on_nodes = any(finding.nodes for finding in findings)
    for finding in findings:
        cells = [finding.name, finding.value, *([_where(finding)] if on_nodes else [])]
        table.add_row(*(Text(cell, _style(finding)) for cell in cells))
    return table


def rates_table(measured: Measured) -> Table:
    """A row for every format and number of threads that was measured."""
    table = _table("format", header=True)
    for name in ("threads", "rate", "vs fp32", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("served by", overflow="fold")
    for rate in measured.rates:
        if rate.reason is None:
            table.add_row(*map(Text, _cells(rate)))
    return table


def _cells(rate: MatrixRate) -> tuple[str, ...]:
    ratio = "-" if rate.against_fp32 is None else f"{rate.against_fp32:.2g}x"
    threads = str(rate.num_threads) if rate.num_threads else "-"
    return rate.format, threads, in_words(rate.best_flops_per_s), ratio, f"{rate.size}", rate.kernel or "unknown"


def _print_part(console: Console, title: str, table: Table, note: str = "") -> None:
    if table.row_count:
        console.print(Text.assemble("\n", (title[0].upper() + title[1:], "bold"), (f"\n{note}" if note else "", "dim")))
        console.print(table)


def _print_problems(console: Console, report: Report) -> None:
    if report.problems:
        console.print(Text("\nProblems", "bold"))
    for number, finding in enumerate(report.problems, 1):
        where = f"{_where(finding)}: " if finding.nodes else ""
        text = Text.assemble(f"{number:>2} ", ("STOPS A SWEEP " if finding.fatal else "", _style(finding)))
        console.print(text.append(f"{where}{finding.problem}", _style(finding)), soft_wrap=True)
        console.print(Text(f"   -> {finding.remedy}"), soft_wrap=True)
    ending = f"A sweep cannot run here: {'; '.join(report.stops)}." if report.stops else "Nothing stops a sweep here."
    console.print(Text(f"\n{ending}", "bold red" if report.stops else "bold green"), soft_wrap=True)


def _style(finding: Finding) -> str:
    if finding.problem is None:
        return ""
    return "bold red" if finding.fatal else "yellow"


def _where(finding: Finding) -> str:
    more = len(finding.nodes) - SHOWN_NODES
    return ", ".join(finding.nodes[:SHOWN_NODES]) + (f" and {more} more" if more > 0 else "")


def _table(*columns: str, header: bool = False) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD if header else None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_header=header,
        header_style="bold",
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
