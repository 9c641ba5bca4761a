"""Going on with an interrupted run: whether it is of the same sweep, and what it has already recorded."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis.schema import BEST_PREFIX, UNFINISHED, ResultsError
from sweeps.engine.cost_fields import BUDGETS
from sweeps.engine.probe import Usable, usable_anywhere
from sweeps.engine.sweep import Sweep
from sweeps.search.checks import refuse
from sweeps.search.plan import plan_search
from trainables.loading import TaskSource
from trainables.routes import DEFAULT

if TYPE_CHECKING:
    from analysis.journal import Journal as Recorded

SAME = (
    "name",
    "task",
    "task_digest",
    "space",
    "precisions",
    "num_trials",
    "max_epochs",
    "max_steps",
    "report_every_steps",
    "scheduler",
    "grace_period",
    "reduction_factor",
    "searcher",
    "points",
    "stop_at",
    "patience",
    "min_delta",
    "seed",
    "route",
    "compile",
)
"""What must be the same for a run to go on; resources, storage, the last stage and more confirming seeds may change."""


LAST = 2**62
"""The number of a completed trial's last report: it counts at every rung, whatever it came to; see :class:`Asha`."""


@dataclass(frozen=True)
class Past:
    """What a run has recorded so far; empty for a new one.

    Args:
        usable: what the probe has left on each device type; empty where it has not finished on any.
        metric, mode: what trials are ranked by, once the probe has finished.
        ended: ids of the trials that need not run again.
        searched: trials of the search by id: their rows.
        reports: of the search, in their order: precision, trial id, number of the report from 1 (:data:`LAST` where a
            trial completed with it), metric.
        timed: blocks that have been timed, by id and device type.
        begun: ids of the trials that have begun.
        steps: trial -> the step of its last report.
        kept: precision -> the trial whose weights are kept, and its metric.
        run_s: seconds that probe and search took.
        spent_usd: what they have spent of a budget.
        costs: what trials have cost, and the seconds that they have still to pay for; see :class:`Meter`.
    """

    usable: Usable = field(default_factory=dict)
    metric: str = ""
    mode: Literal["max", "min"] = "max"
    ended: frozenset[str] = frozenset()
    searched: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reports: list[tuple[str, str, int, float]] = field(default_factory=list)
    timed: frozenset[tuple[str, str]] = frozenset()
    begun: frozenset[str] = frozenset()
    steps: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    run_s: float = 0.0
    spent_usd: float = 0.0
    costs: Mapping[str, tuple[float | None, float]] = field(default_factory=dict)

    def reached(self, trial_id: str) -> dict[str, Any]:
        """What a trial of the search had come to by its last report, as columns of ``trials``; empty without one."""
        values = [value for _, name, _, value in self.reports if name == trial_id and math.isfinite(value)]
        if not values:
            return {}
        best = max(values) if self.mode == "max" else min(values)
        return {self.metric: values[-1], BEST_PREFIX + self.metric: best, "steps": self.steps[trial_id]}


def read_past(folder: Path, sweep: Sweep, source: TaskSource) -> Past:
    """What a run has recorded.

    Args:
        folder: of the run.
        sweep: as it is declared now.
        source: its task, as it is now.

    Raises:
        SweepError: the run is of another sweep, or cannot be read.
    """
    from analysis.journal import read_journal  # pandas, which a new run does without until its end

    try:
        recorded = read_journal(folder)
    except ResultsError as error:
        refuse("resume", f"needs results that can be read ({error})", str(folder), "begin a new run")
    declared = json.loads(json.dumps(sweep.to_json() | task_digest(source), default=str))
    _check_same(recorded.sweep, declared)
    try:
        _check_points(recorded, sweep)
        _check_unfinished(recorded.sweep, declared, recorded.trials.values())
        return _past(recorded) if recorded.sweep.get("probed") else Past(**_spent(recorded))
    except (KeyError, TypeError) as error:
        condition = f"needs a whole journal ({type(error).__name__}: {error} in a line of it)"
        refuse("resume", condition, str(folder), "restore the journal as written, or begin a new run")


def _past(recorded: "Recorded") -> Past:
    metric = recorded.sweep["metric"]
    usable = _usable(recorded)
    known = usable_anywhere(usable)
    for trial in recorded.trials.values():
        if trial["stage"] != "probe" and trial["status"] != "excluded" and trial["precision"] not in known:
            raise KeyError(f"the probe of {trial['precision']}")
    steps = _last_steps(recorded)
    return Past(
        usable=usable,
        metric=metric,
        mode=recorded.sweep["mode"],
        ended=frozenset(name for name, trial in recorded.trials.items() if trial["status"] not in UNFINISHED),
        searched={name: trial for name, trial in recorded.trials.items() if trial["stage"] == "search"},
        reports=_numbered(recorded, metric),
        timed=frozenset(
            (record["block_id"], record["device"])
            for record in recorded.timings.values()
            if record["status"] == "completed"
        ),
        begun=frozenset(recorded.trials),
        steps=steps,
        kept={
            trial["precision"]: (name, trial[metric])
            for name, trial in recorded.trials.items()
            if trial.get("checkpoint") is not None
        },
        costs={name: _cost(trial, name in steps) for name, trial in recorded.trials.items()},
        **_spent(recorded),
    )


def _spent(recorded: "Recorded") -> dict[str, Any]:
    """What probe and search have spent; earlier versions wrote no sum, and what is known of trials is later."""
    known = [trial.get("cost_usd") or 0.0 for trial in recorded.trials.values() if trial["stage"] != "confirm"]
    return {"run_s": recorded.run_s, "spent_usd": max(sum(known), recorded.spent_usd)}


def _cost(trial: Mapping[str, Any], has_reported: bool) -> tuple[float | None, float]:
    """What a trial has cost, and the seconds to be paid for; one that wrote nothing of it lasted a few seconds."""
    is_unknown = trial.get("cost_usd") is None and ("cost_usd" in trial or has_reported)
    return None if is_unknown else trial.get("cost_usd") or 0.0, trial.get("unpaid_s") or 0.0


def _usable(recorded: "Recorded") -> Usable:
    """What the probe left on each device type that it came to its end on."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in recorded.trials.values():
        if trial["stage"] == "probe":
            rows.setdefault(trial.get("device") or "", {})[trial["precision"]] = trial
    return {
        device: {name: row.get("route") or DEFAULT for name, row in probed.items() if row["status"] == "completed"}
        for device, probed in rows.items()
        if set(recorded.sweep["precisions"]) <= probed.keys()
    }


def task_digest(source: TaskSource) -> dict[str, str]:
    """The fingerprint of a task's file or function, so that a run does not go on with another one of the same name."""
    import hashlib

    if source.digest is not None:
        return {"task_digest": source.digest}
    return {"task_digest": hashlib.sha256(source.text.encode()).hexdigest()[:16]} if source.text is not None else {}


def _check_same(recorded: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    recorded = {"compile": False, "min_delta": 0.0, **recorded}  # which runs of earlier versions do not say
    for name in SAME:
        if recorded.get(name) != declared.get(name):
            condition = f"must be as in the run that goes on ({json.dumps(recorded.get(name))})"
            refuse(name, condition, json.dumps(declared.get(name)), "change it back, or begin a new run")
    for name in ("metric", "mode"):  # which the task tells where nothing is asked for
        if recorded.get("probed") and declared[name] not in (None, recorded[name]):
            condition = f"must be as in the run that goes on ({recorded[name]})"
            refuse(name, condition, declared[name], "begin a new run")
    for name in ("target_speedup", "margin"):
        before, now = ((each.get("confirm") or {}).get(name) for each in (recorded, declared))
        if before is not None and now is not None and before != now:
            # Both were stated before the runs; changed after them, a verdict would mean nothing.
            refuse(f"confirm.{name}", f"must be as in the run that goes on ({before})", now, "begin a new run")


def _check_points(recorded: "Recorded", sweep: Sweep) -> None:
    """The file of points may have grown at its end: trials are known by the numbers of its lines."""
    if sweep.points is None:
        return
    planned = {trial.trial_id: (trial.config_id, trial.seed) for trial in plan_search(sweep, sweep.precisions)}
    for name, trial in recorded.trials.items():
        as_planned = "donor" not in trial  # pbt changes what trials began with
        if trial["stage"] == "search" and as_planned and planned.get(name) != (trial["config_id"], trial["seed"]):
            condition = f"must begin with the lines of the run that goes on ({name} is of another)"
            refuse("points", condition, sweep.points, "add new ones at the end, or begin a new run")


def _check_unfinished(recorded: Mapping[str, Any], declared: Mapping[str, Any], trials: Iterable[Any]) -> None:
    if any(trial["status"] == "lost" and trial["stage"] != "probe" for trial in trials):
        return
    as_before = all(recorded.get(name) == declared[name] for name in ("confirm", "stage", *BUDGETS))
    if recorded.get("ended_at") is not None and as_before:
        remedy = "raise confirm.num_seeds for more pairs or a budget for more trials, or begin a new run"
        refuse("resume", f"needs a run that has not finished, as {recorded['run_name']} has", True, remedy)


def _last_steps(recorded: "Recorded") -> dict[str, int]:
    steps: dict[str, int] = {}
    for report in recorded.reports.to_pylist():
        steps[report["trial_id"]] = max(report["step"], steps.get(report["trial_id"], -1))
    return steps


def _numbered(recorded: "Recorded", metric: str) -> list[tuple[str, str, int, float]]:
    seen: Counter[str] = Counter()
    steps: set[tuple[str, Any]] = set()
    reports = []
    for report in recorded.reports.to_pylist():
        key = (report["trial_id"], report.get("step"))
        if report.get("stage") != "search" or key in steps:
            continue
        steps.add(key)
        seen[report["trial_id"]] += 1
        value = report.get(metric)
        trial = recorded.trials[report["trial_id"]]
        has_completed = trial["status"] == "completed" and report["step"] == trial.get("steps")
        number = LAST if has_completed else seen[report["trial_id"]]
        reports.append((trial["precision"], report["trial_id"], number, float("nan") if value is None else value))
    return reports
