"""The results as text for a terminal or a log: verdicts and reasons, a summary, what was left out and what failed."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import cells
from analysis.baselines import FIGURES, OVER_DEFAULT, baselines, side_by_side
from analysis.cells import Row
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
    verdicts = verdict_table(results)
    _print_part(console, "Verdicts", verdicts, "Ranges are 95 % intervals; more is better, of every figure.")
    if verdicts.row_count:
        console.print()
        console.print(reasons(results))
        _print_part(
            console, "Against every baseline", baselines_table(results), "How many times as fast, with interval."
        )
    else:
        console.print("\nNo verdict: nothing was confirmed.")
    _print_part(console, "Arms", arms_table(results), "As confirmed: medians of timed blocks, means of full runs.")
    _print_best(results, console)
    note = "The search's trials of the same configuration and seed in both precisions, at the same report."
    _print_part(console, "Do the best hyperparameters carry over?", interaction_table(results), note)
    _print_part(console, "All trials", summary_table(results), str(results.summary().attrs["caption"]))
    _print_part(console, "Left out", left_out_table(results))
    _print_part(console, "Failed", failures_table(results))


def verdict_table(results: Results) -> Table:
    """A row for every verdict, numbered as in `reasons`; each figure with its interval below it."""
    metrics = {sweep["metric"] for sweep in results.sweeps}
    where = cells.where(results.verdicts)
    table = cells.grid("#")
    for name in ("verdict", "precision"):
        table.add_column(name, no_wrap=True)
    for name in (*where, "config"):
        table.add_column(name, overflow="fold")
    cells.add_numbers(table, "speed-up", metrics.pop() if len(metrics) == 1 else "metric", "memory")
    for number, row in enumerate(cells.rows(results.verdicts), 1):
        places = [row[name] for name in where]
        verdict = _verdict(row).append(
            f"\n{row['num_pairs']} {'pair' if row['num_pairs'] == 1 else 'pairs'}", "not bold"
        )
        arms = Text(f"{row['precision']}\nagainst {row['baseline']}")
        cells.add_row(table, str(number), verdict, arms, *places, row["config_id"], *_figures(row))
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


def baselines_table(results: Results) -> Table:
    """The speed of each precision against every baseline side by side, and by default kernels where that was timed."""
    names, sides = baselines(results.verdicts), side_by_side(results.verdicts)
    timed = [name for name in names if sides[f"{OVER_DEFAULT}/{name}"].notna().any()]
    table = cells.grid()
    for name in ("precision", *cells.where(results.verdicts), "config"):
        table.add_column(name, overflow="fold")
    cells.add_numbers(table, *(f"against {name}" for name in names), *(f"{name} by default" for name in timed))
    for row in cells.rows(sides) if len(names) + len(timed) > 1 else []:
        places = [row[name] for name in cells.where(results.verdicts)]
        speeds = [[cells.number(row[f"{figure}/{name}"], ".2f") for figure in FIGURES] for name in names]
        shown = [cells.with_range(*speed) for speed in speeds]
        shown += [cells.number(row[f"{OVER_DEFAULT}/{name}"], ".2f") for name in timed]
        cells.add_row(table, row["precision"], *places, row["config_id"], *shown)
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
        cells.add_row(
            table, *places, str(row["num_configs"]), best, correlation, f"{row['conclusion']}: {row['reason']}"
        )
    return table


def arms_table(results: Results) -> Table:
    """What each confirmed precision came to: the kernel route that it took, its time, memory, loss and metric."""
    arms = results.arms
    metrics = set(arms["metric"])
    names = [*cells.where(arms), *(["config_id"] if arms["config_id"].nunique() > 1 else []), "precision", "route"]
    ends = ["value"] if metrics == {"val_loss"} else ["val_loss", "value"]
    table = cells.grid(*(name.removesuffix("_id") for name in names))
    metric = metrics.pop() if len(metrics) == 1 else "metric"
    cells.add_numbers(table, "step ms", "samples/s", "memory", *ends[:-1], metric)
    for row in cells.rows(arms):
        cells.add_row(
            table,
            *(cells.text(row[name]) for name in names[:-1]),
            f"{cells.text(row['route'])}\n{_libraries(row['kernel'])}",
            cells.number(row["step_ms"], ".3g"),
            cells.number(row["samples_per_s"], ",.0f"),
            cells.size(row["peak_memory_bytes"]),
            *(cells.number(row[name], ".4g") for name in ends),
        )
    return table


def _libraries(kernels: Any) -> str:
    """The libraries of some kernels, each once."""
    return ", ".join(dict.fromkeys(kernel.split()[0] for kernel in cells.text(kernels).split(", ")))


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


def left_out_table(results: Results) -> Table:
    """The precisions that the probe left out, and why."""
    trials = results.trials
    left_out = trials[(trials["stage"] == "probe") & ~trials["status"].isin(["completed", "running"])]
    table = cells.grid("precision", *cells.where(trials), "status", "reason")
    for row in cells.rows(left_out):
        places = (cells.text(row[name]) for name in cells.where(trials))
        cells.add_row(
            table, cells.text(row["precision"]), *places, cells.words(row["status"]), cells.text(row["status_reason"])
        )
    return table


def print_probe(results: Results, console: Console) -> None:
    """Print what the probe found: a row for every precision, and why some are left out, as sentences."""
    console.print(Text("\nProbe", "bold"))
    console.print(probe_table(results))
    for row in cells.rows(results.trials[results.trials["stage"] == "probe"]):
        console.print(Text(f"{row['precision']}: {_route(row)}"), soft_wrap=True)


def _route(row: Row) -> str:
    """By which kernels a precision was probed, or why it is left out."""
    if row["status"] != "completed":
        return f"{cells.words(row['status'])}, {row['status_reason']}"
    default = f", {row['default_step_ms']:.3g} ms by the default one" if cells.known(row["default_step_ms"]) else ""
    kernel = f" ({row['kernel']})" if cells.known(row["kernel"]) else ""
    return f"{row['step_ms']:.3g} ms a step by the route {row['route']}{default}{kernel}"


def probe_table(results: Results) -> Table:
    """A row for every precision probed: usable or not, what a step really ran in, its time and memory."""
    probed = results.trials[results.trials["stage"] == "probe"]
    table = cells.grid(*cells.where(probed))
    for name in ("precision", "usable", "effective"):
        table.add_column(name, no_wrap=True)
    cells.add_numbers(table, "share", "step ms", "samples/s", "memory")
    for row in cells.rows(probed):
        table.add_row(
            *(cells.text(row[name]) for name in cells.where(probed)),
            cells.text(row["precision"]),
            "yes" if row["status"] == "completed" else f"no, {cells.words(row['status'])}",
            cells.text(row["effective_precision"]),
            cells.number(row["effective_share"], ".0%"),
            cells.number(row["step_ms"], ".3g"),
            cells.number(row["samples_per_s"], ",.0f"),
            cells.size(row["peak_memory_bytes"]),
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
