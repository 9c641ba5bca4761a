"""The results as text for a terminal or a log: verdicts and reasons, a summary, what was left out and what failed."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import cells
from analysis.arms_tables import arms_note, arms_tables
from analysis.baselines import FIGURES, OVER_DEFAULT, baselines, side_by_side
from analysis.cells import Row
from analysis.money import dollars
from analysis.probe_tables import left_out_tables
from analysis.remote import shown
from analysis.results import Results
from analysis.schema import ResultsError
from analysis.words import difference

VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "UNDERPOWERED": "bold yellow", "INVALID": "bold magenta"}

_FAILURES = ("diverged", "out_of_memory", "errored", "precision_mismatch", "lost")


def print_report(results: Results, console: Console) -> None:
    """Print all there is to say: verdicts and reasons, the best trial, a summary, what was left out and what failed.

    Args:
        results: of one sweep or several.
        console: 80 columns are enough; without a terminal it is plain text.
    """
    for sweep in results.sweeps:
        console.print(_heading(results, sweep))
    verdicts = verdict_tables(results)
    _print_part(console, "Verdicts", verdicts, "Ranges are 95 % intervals; more is better, of every figure.")
    if verdicts:
        console.print()
        console.print(reasons(results))
        note = "How many times as fast, with interval."
        _print_part(console, "Against every baseline", baselines_tables(results), note)
    else:
        console.print("\nNo verdict: nothing was confirmed.")
    _print_part(console, "Arms", arms_tables(results), arms_note(results))
    _print_best(results, console)
    _print_costs(results, console)
    note = "The search's trials of the same configuration and seed in both precisions, at the same report."
    carried = interaction_table(results)
    _print_part(console, "Do the best hyperparameters carry over?", [carried], note)
    if carried.row_count:
        console.print()
        console.print(interaction_reasons(results))
    _print_part(console, "All trials", [summary_table(results)], str(results.summary().attrs["caption"]))
    _print_part(console, "Left out", left_out_tables(results))
    _print_part(console, "Failed", [failures_table(results)])


def verdict_tables(results: Results) -> list[Table]:
    """A row for every verdict, numbered as in `reasons`; each figure with its interval below it."""
    metrics = {sweep["metric"] for sweep in results.sweeps}
    metric = metrics.pop() if len(metrics) == 1 else "metric"
    numbered = results.verdicts.assign(number=range(1, len(results.verdicts) + 1))
    return [_verdict_table(place, rows, metric) for place, rows in cells.by_place(numbered).items()]


def _verdict_table(place: str, rows: list[Row], metric: str) -> Table:
    table = cells.grid("#", title=place)
    for name in ("verdict", "precision"):
        table.add_column(name, no_wrap=True)
    table.add_column("config", overflow="fold")
    cells.add_numbers(table, "speed-up", metric, "memory")
    for row in rows:
        num_pairs = f"\n{row['num_pairs']} {'pair' if row['num_pairs'] == 1 else 'pairs'}"
        arms = Text(f"{row['precision']}\nagainst {row['baseline']}")
        verdict = _verdict(row).append(num_pairs, "not bold")
        cells.add_row(table, str(row["number"]), verdict, arms, row["config_id"], *_figures(row))
    return table


def reasons(results: Results) -> Table:
    """The reason of every verdict as a sentence, none cut short."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for number, row in enumerate(cells.rows(results.verdicts), 1):
        arms = f"{row['precision']} against {row['baseline']}, {row['config_id']}: "
        # The reason of a comparison of different configurations names them, and so the arms, itself.
        named = row["reason"].startswith("Best ")
        cells.add_row(table, str(number), Text.assemble(_verdict(row), " ", "" if named else arms, row["reason"]))
    return table


def baselines_tables(results: Results) -> list[Table]:
    """The speed of each precision against every baseline side by side, and by default kernels where that was timed."""
    names, sides = baselines(results.verdicts), side_by_side(results.verdicts)
    timed = [name for name in names if sides[f"{OVER_DEFAULT}/{name}"].notna().any()]
    if len(names) + len(timed) <= 1:
        return []
    return [_baselines_table(place, rows, names, timed) for place, rows in cells.by_place(sides).items()]


def _baselines_table(place: str, rows: list[Row], names: list[str], timed: list[str]) -> Table:
    table = cells.grid("precision", "config", title=place)
    cells.add_numbers(table, *(f"against\n{name}" for name in names), *(f"{name}\nby default" for name in timed))
    for row in rows:
        speeds = [[cells.number(row[f"{figure}/{name}"], ".2f") for figure in FIGURES] for name in names]
        shown = [cells.with_range(*speed) for speed in speeds]
        shown += [cells.number(row[f"{OVER_DEFAULT}/{name}"], ".2f") for name in timed]
        cells.add_row(table, row["precision"], row["config_id"], *shown)
    return table


def interaction_table(results: Results) -> Table:
    """Whether the best value of each hyperparameter stays the best in another precision."""
    found = results.interaction()
    names = (["sweep"] if found["sweep"].nunique() > 1 else []) + ["hyperparameter"]
    table = cells.grid(*names, "precision")
    cells.add_numbers(table, "configs", "best", "rank corr.")
    table.add_column("conclusion", overflow="fold")
    for row in cells.rows(found):
        best = f"{cells.short(row['best_in_precision'])}\n{cells.short(row['best_in_baseline'])}"
        correlation = cells.with_range(
            *(cells.number(row[f"rank_correlation{end}"], ".2f") for end in ("", "_low", "_high"))
        )
        places = [*(cells.text(row[name]) for name in names), f"{row['precision']}\n{row['baseline']}"]
        cells.add_row(table, *places, str(row["num_configs"]), best, correlation, row["conclusion"])
    return table


def interaction_reasons(results: Results) -> Table:
    """The reasons of these conclusions as sentences, each once with the hyperparameters that it holds for."""
    found = results.interaction()
    has_sweeps = found["sweep"].nunique() > 1
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in cells.rows(found):
        where = f"{row['sweep']}, " if has_sweeps else ""
        arms = f" in {row['precision']} and {row['baseline']}: {row['reason']}"
        alike.setdefault((row["conclusion"], where, arms), []).append(row["hyperparameter"])
    table = Table.grid()
    table.add_column(overflow="fold")
    for (conclusion, where, arms), names in alike.items():
        cells.add_row(table, Text.assemble((conclusion, "bold"), f": {where}{', '.join(names)}{arms}"))
    return table


def summary_table(results: Results, by: str = "precision") -> Table:
    """The exploratory figures of `Results.summary`, medians over the trials of a group."""
    metrics = {sweep["run_name"]: sweep["metric"] for sweep in results.sweeps}
    summary = results.summary(by)
    table = cells.grid(*(["sweep"] if "sweep" in summary and by != "sweep" else []), by)
    cells.add_numbers(table, "trials", "done", "pruned", "failed", "samples/s", "memory", "best", "median")
    for row in cells.rows(summary):
        metric = metrics[row["sweep"]] if "sweep" in row else results.sweeps[0]["metric"]
        failed = sum(row[f"num_{status}"] for status in _FAILURES)
        cells.add_row(
            table,
            *(cells.text(row[str(column.header)]) for column in table.columns if column.header in ("sweep", by)),
            *(str(num) for num in (row["num_trials"], row["num_completed"], row["num_pruned"], failed)),
            cells.number(row["samples_per_s"], ",.0f" if row["samples_per_s"] >= 100 else ".3g"),
            cells.size(row["peak_memory_bytes"]),
            cells.number(row[f"best_{metric}"], ".4g"),
            cells.number(row[f"median_{metric}"], ".4g"),
        )
    return table


def failures_table(results: Results) -> Table:
    """Runs and timings that failed, alike ones counted together."""
    trials, timings = results.trials, results.timings
    runs = trials[(trials["stage"] != "probe") & trials["status"].isin(_FAILURES)]
    blocks = timings[timings["status"] != "completed"].drop_duplicates(["sweep", "device", "block_id"])
    kinds = ["stage", "precision", "status", "status_reason"]
    failed = cells.rows(runs[kinds]) + cells.rows(blocks.assign(stage="timing", precision="all")[kinds])
    table = cells.grid("stage", "precision", "status")
    cells.add_numbers(table, "runs")
    table.add_column("reason", overflow="fold")
    for (stage, precision, status, reason), num in Counter(
        tuple(map(cells.text, row.values())) for row in failed
    ).items():
        cells.add_row(table, stage, precision, cells.words(status), str(num), reason)
    return table


def _heading(results: Results, sweep: Row) -> Text:
    trials = results.trials
    ends = trials.loc[(trials["sweep"] == sweep["run_name"]) & (trials["stage"] != "probe"), "status"].value_counts()
    where = trials.loc[trials["sweep"] == sweep["run_name"], "device"].dropna().unique()
    devices = f" on {' and '.join(where)}" if len(where) else ""
    what = f", {sweep['metric']} ({sweep['mode']}){devices}, {ends.sum()} trials"
    text = Text.assemble((str(sweep["run_name"]), "bold"), what)
    text.append(f": {', '.join(f'{num} {cells.words(str(end))}' for end, num in ends.items())}" if len(ends) else "")
    confirm = sweep.get("confirm")
    if confirm:
        text.append(f"\nA PASS must show {confirm['target_speedup']:g}x the speed, ")
        text.append(f"and a loss of {sweep['metric']} below {confirm['margin']:g}.")
    return text


def _print_part(console: Console, title: str, tables: Sequence[Table], note: str = "") -> None:
    """A heading over some tables, those of which have rows; a table with a title after a blank line."""
    shown = [table for table in tables if table.row_count]
    if shown:
        console.print(Text.assemble("\n", (title, "bold"), (f"\n{note}" if note else "", "dim")))
    for table in shown:
        if table.title:
            console.print()
        console.print(table)


def _print_best(results: Results, console: Console) -> None:
    try:
        best = results.best()
    except ResultsError:
        return
    values = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in best.config.items()}
    config = ", ".join(f"{name}={value}" for name, value in values.items())
    which = f"  {best.metric} {best.value:.4g}, {best.precision}, {best.trial_id}"
    text = Text.assemble("\n", ("Best trial", "bold"), which)
    text.append(f"\n{config}" if config else "")
    text.append(f"\n{shown(best.checkpoint)}" if best.checkpoint else "")
    console.print(text)


def _print_costs(results: Results, console: Console) -> None:
    """What each sweep that has prices cost, and of how many runs that is unknown."""
    priced = {sweep["run_name"] for sweep in results.sweeps if sweep.get("usd_per_hour") is not None}
    for sweep, stages in results.costs.groupby("sweep", sort=False):
        known = stages.dropna(subset=["cost_usd"])
        if known.empty and sweep not in priced:
            continue
        which = f"{sweep}: " if len(results.sweeps) > 1 else ""
        parts = ", ".join(f"{row['stage']} {dollars(row['cost_usd'])}" for row in cells.rows(known))
        told = [f"{dollars(known['cost_usd'].sum())} ({parts})"] if parts else []
        num, num_known = stages["num_runs"].sum(), stages["num_known"].sum()
        told += [f"unknown of {num - num_known} of {num} runs"] if num_known < num else []
        console.print(Text.assemble("\n", ("Cost", "bold"), f"  {which}{'; '.join(told)}"))


def _verdict(row: Row) -> Text:
    return Text(row["verdict"], VERDICT_STYLES[row["verdict"]])


def _figures(row: Row) -> tuple[str, str, str]:
    """Speed-up, difference of the metric and memory ratio, the first two over their intervals."""
    deltas = ("metric_delta", "metric_delta_low", "metric_delta_high")
    low, high = (cells.number(row[name], ".2f") for name in ("speedup_low", "speedup_high"))
    speed = cells.with_range(cells.number(row["speedup"], ".2f", "x"), low, high)
    delta = cells.with_range(
        *(difference(row[name], row["margin"]) if cells.known(row[name]) else cells.NONE for name in deltas)
    )
    return speed, delta, cells.number(row["memory_ratio"], ".2f", "x")
