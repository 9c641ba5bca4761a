"""The results as text for a terminal or a log: verdicts and reasons, a summary, what was left out and what failed."""

from collections import Counter
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.results import Results
from analysis.schema import ResultsError
from analysis.words import difference

VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "UNDERPOWERED": "bold yellow", "INVALID": "bold magenta"}

_FAILURES = ("diverged", "out_of_memory", "errored", "precision_mismatch", "lost")

Row = dict[str, Any]


def print_report(results: Results, console: Console) -> None:
    """Print all there is to say: verdicts and reasons, the best trial, a summary, what was left out and what failed.

    Args:
        results: of one sweep or several.
        console: 80 columns are enough; without a terminal it is plain text.
    """
    for sweep in results.sweeps:
        console.print(_heading(results, sweep))
    verdicts = verdict_table(results)
    _print_part(console, "Verdicts", verdicts, "Ranges are 95 % intervals; more is better, of every figure.")
    if verdicts.row_count:
        console.print()
        console.print(reasons(results))
    else:
        console.print("\nNo verdict: nothing was confirmed.")
    _print_part(console, "Arms", arms_table(results), "As confirmed: medians of timed blocks, means of full runs.")
    _print_best(results, console)
    _print_part(console, "All trials", summary_table(results), str(results.summary().attrs["caption"]))
    _print_part(console, "Left out", left_out_table(results))
    _print_part(console, "Failed", failures_table(results))


def verdict_table(results: Results) -> Table:
    """A row for every verdict, numbered as in `reasons`; each figure with its interval below it."""
    metrics = {sweep["metric"] for sweep in results.sweeps}
    where = _where(results.verdicts)
    table = _table("#")
    for name in ("verdict", "precision"):
        table.add_column(name, no_wrap=True)
    for name in (*where, "config"):
        table.add_column(name, overflow="fold")
    _add_numbers(table, "speed-up", metrics.pop() if len(metrics) == 1 else "metric", "memory")
    for number, row in enumerate(_rows(results.verdicts), 1):
        places = [row[name] for name in where]
        verdict = _verdict(row).append(
            f"\n{row['num_pairs']} {'pair' if row['num_pairs'] == 1 else 'pairs'}", "not bold"
        )
        arms = Text(f"{row['precision']}\nagainst {row['baseline']}")
        _add_row(table, str(number), verdict, arms, *places, row["config_id"], *_figures(row))
    return table


def reasons(results: Results) -> Table:
    """The reason of every verdict as a sentence, none cut short."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for number, row in enumerate(_rows(results.verdicts), 1):
        arms = f"{row['precision']} against {row['baseline']}, {row['config_id']}: "
        # The reason of a comparison of different configurations names them, and so the arms, itself.
        named = row["reason"].startswith("Best ")
        _add_row(table, str(number), Text.assemble(_verdict(row), " ", "" if named else arms, row["reason"]))
    return table


def arms_table(results: Results) -> Table:
    """What each confirmed precision came to: the kernel route that it took, its time, memory, loss and metric."""
    arms = results.arms
    metrics = set(arms["metric"])
    names = [*_where(arms), *(["config_id"] if arms["config_id"].nunique() > 1 else []), "precision", "route"]
    ends = ["value"] if metrics == {"val_loss"} else ["val_loss", "value"]
    table = _table(*(name.removesuffix("_id") for name in names))
    metric = metrics.pop() if len(metrics) == 1 else "metric"
    _add_numbers(table, "step ms", "samples/s", "memory", *ends[:-1], metric)
    for row in _rows(arms):
        _add_row(
            table,
            *(_text(row[name]) for name in names),
            _number(row["step_ms"], ".3g"),
            _number(row["samples_per_s"], ",.0f"),
            _bytes(row["peak_memory_bytes"]),
            *(_number(row[name], ".4g") for name in ends),
        )
    return table


def summary_table(results: Results, by: str = "precision") -> Table:
    """The exploratory figures of `Results.summary`, medians over the trials of a group."""
    metrics = {sweep["run_name"]: sweep["metric"] for sweep in results.sweeps}
    summary = results.summary(by)
    table = _table(*(["sweep"] if "sweep" in summary and by != "sweep" else []), by)
    _add_numbers(table, "trials", "done", "pruned", "failed", "samples/s", "memory", "best", "median")
    for row in _rows(summary):
        metric = metrics[row["sweep"]] if "sweep" in row else results.sweeps[0]["metric"]
        failed = sum(row[f"num_{status}"] for status in _FAILURES)
        _add_row(
            table,
            *(_text(row[str(column.header)]) for column in table.columns if column.header in ("sweep", by)),
            *(str(num) for num in (row["num_trials"], row["num_completed"], row["num_pruned"], failed)),
            _number(row["samples_per_s"], ",.0f" if row["samples_per_s"] >= 100 else ".3g"),
            _bytes(row["peak_memory_bytes"]),
            _number(row[f"best_{metric}"], ".4g"),
            _number(row[f"median_{metric}"], ".4g"),
        )
    return table


def left_out_table(results: Results) -> Table:
    """The precisions that the probe left out, and why."""
    trials = results.trials
    left_out = trials[(trials["stage"] == "probe") & ~trials["status"].isin(["completed", "running"])]
    table = _table("precision", *_where(trials), "status", "reason")
    for row in _rows(left_out):
        places = (_text(row[name]) for name in _where(trials))
        _add_row(table, _text(row["precision"]), *places, _words(row["status"]), _text(row["status_reason"]))
    return table


def print_probe(results: Results, console: Console) -> None:
    """Print what the probe found: a row for every precision, and why some are left out, as sentences."""
    console.print(Text("\nProbe", "bold"))
    console.print(probe_table(results))
    probed = results.trials[results.trials["stage"] == "probe"]
    for row in _rows(probed[probed["status"] != "completed"]):
        console.print(Text(f"{row['precision']}: {_words(row['status'])}, {row['status_reason']}"), soft_wrap=True)


def probe_table(results: Results) -> Table:
    """A row for every precision probed: usable or not, what a step really ran in, its time and memory."""
    probed = results.trials[results.trials["stage"] == "probe"]
    table = _table(*_where(probed))
    for name in ("precision", "usable", "effective"):
        table.add_column(name, no_wrap=True)
    _add_numbers(table, "share", "step ms", "samples/s", "memory")
    for row in _rows(probed):
        table.add_row(
            *(_text(row[name]) for name in _where(probed)),
            _text(row["precision"]),
            "yes" if row["status"] == "completed" else f"no, {_words(row['status'])}",
            _text(row["effective_precision"]),
            _number(row["effective_share"], ".0%"),
            _number(row["step_ms"], ".3g"),
            _number(row["samples_per_s"], ",.0f"),
            _bytes(row["peak_memory_bytes"]),
        )
    return table


def failures_table(results: Results) -> Table:
    """Runs and timings that failed, alike ones counted together."""
    trials, timings = results.trials, results.timings
    runs = trials[(trials["stage"] != "probe") & trials["status"].isin(_FAILURES)]
    blocks = timings[timings["status"] != "completed"].drop_duplicates(["sweep", "device", "block_id"])
    kinds = ["stage", "precision", "status", "status_reason"]
    failed = _rows(runs[kinds]) + _rows(blocks.assign(stage="timing", precision="all")[kinds])
    table = _table("stage", "precision", "status")
    _add_numbers(table, "runs")
    table.add_column("reason", overflow="fold")
    for (stage, precision, status, reason), num in Counter(tuple(map(_text, row.values())) for row in failed).items():
        _add_row(table, stage, precision, _words(status), str(num), reason)
    return table


def _heading(results: Results, sweep: Row) -> Text:
    trials = results.trials
    ends = trials.loc[(trials["sweep"] == sweep["run_name"]) & (trials["stage"] != "probe"), "status"].value_counts()
    where = trials.loc[trials["sweep"] == sweep["run_name"], "device"].dropna().unique()
    devices = f" on {' and '.join(where)}" if len(where) else ""
    what = f", {sweep['metric']} ({sweep['mode']}){devices}, {ends.sum()} trials"
    text = Text.assemble((str(sweep["run_name"]), "bold"), what)
    text.append(f": {', '.join(f'{num} {_words(str(end))}' for end, num in ends.items())}" if len(ends) else "")
    confirm = sweep.get("confirm")
    if confirm:
        text.append(f"\nA PASS must show {confirm['target_speedup']:g}x the speed, ")
        text.append(f"and a loss of {sweep['metric']} below {confirm['margin']:g}.")
    return text


def _print_part(console: Console, title: str, table: Table, note: str = "") -> None:
    if table.row_count:
        console.print(Text.assemble("\n", (title, "bold"), (f"\n{note}" if note else "", "dim")))
        console.print(table)


def _print_best(results: Results, console: Console) -> None:
    try:
        best = results.best()
    except ResultsError:
        return
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in best.config.items()}
    config = ", ".join(f"{name}={value}" for name, value in shown.items())
    which = f"  {best.metric} {best.value:.4g}, {best.precision}, {best.trial_id}"
    text = Text.assemble("\n", ("Best trial", "bold"), which)
    text.append(f"\n{config}" if config else "")
    text.append(f"\n{best.checkpoint}" if best.checkpoint else "")
    console.print(text)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _add_row(table: Table, *cells: str | Text) -> None:
    """Add a row in which square brackets are just that, not rich's markup: reasons come from anywhere."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _add_numbers(table: Table, *columns: str) -> None:
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)


def _rows(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _where(table: pd.DataFrame) -> list[str]:
    """The columns that say where a row is from, as far as they differ."""
    return [name for name in ("sweep", "device") if table[name].nunique() > 1]


def _verdict(row: Row) -> Text:
    return Text(row["verdict"], VERDICT_STYLES[row["verdict"]])


def _figures(row: Row) -> tuple[str, str, str]:
    """Speed-up, difference of the metric and memory ratio, the first two over their intervals."""
    deltas = ("metric_delta", "metric_delta_low", "metric_delta_high")
    low, high = (_number(row[name], ".2f") for name in ("speedup_low", "speedup_high"))
    speed = _with_range(_number(row["speedup"], ".2f", "x"), low, high)
    delta = _with_range(*(difference(row[name], row["margin"]) if _known(row[name]) else _NONE for name in deltas))
    return speed, delta, _number(row["memory_ratio"], ".2f", "x")


def _with_range(value: str, low: str, high: str) -> str:
    return value if low == _NONE else f"{value}\n{low} to {high}"


_NONE = "-"
"""How a missing value is shown."""


def _known(value: Any) -> bool:
    return not pd.isna(value)


def _text(value: Any) -> str:
    return str(value) if _known(value) else _NONE


def _words(status: Any) -> str:
    return _text(status).replace("_", " ")


def _number(value: Any, spec: str, unit: str = "") -> str:
    return f"{value:{spec}}{unit}" if _known(value) else _NONE


def _bytes(value: Any) -> str:
    if not _known(value):
        return _NONE
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 2**10:.0f} KiB"
