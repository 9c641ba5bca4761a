"""A budget ends a search on a real Ray; the reports wind its clock, by an hour each, so that no time decides."""

import dataclasses
import functools
import io
from pathlib import Path

import pytest
from rich.console import Console

from analysis import load
from analysis.tables import print_report
from sweeps import Confirm, Sweep, SweepError, loguniform, run
from sweeps.engine import stages
from sweeps.engine.meter import Meter
from sweeps.engine.recorder import Recorder
from sweeps.engine.resume import read_past
from trainables.loading import find_task

PRECISIONS = ("fp32", "bf16-mixed")


@pytest.mark.ray
def test_a_budget_ends_the_search_confirm_runs_and_a_resumed_run_does_not_spend_again(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(
        name="tiny",
        task="trainables.tasks.digits:build",
        space={"learning_rate": loguniform(1e-3, 1e-2), "width": 4},
        precisions=PRECISIONS,
        metric="val_accuracy",
        num_trials=8,
        max_epochs=3,
        scheduler="fifo",
        confirm=Confirm(num_seeds=1),
        cpus_per_trial=1.5,  # one trial at a time, of a node of two CPUs
        route="default",
        usd_per_hour={"cpu": 2.0},
        budget_usd=5.5,
        storage=str(tmp_path),
        run_name="tiny",
    )
    hours, record, is_confirming = 0, Recorder.record, []

    def wound(self: Recorder, kind: str, row: dict) -> None:
        nonlocal hours
        hours += kind == "report"
        is_confirming.extend([row["trial_id"]] if row.get("stage") == "confirm" else [])
        record(self, kind, row)
        if len(is_confirming) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(stages, "Meter", functools.partial(Meter, clock=lambda: 3600.0 * hours))
    monkeypatch.setattr(Recorder, "record", wound)
    said = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run(sweep, Console(file=said, width=200))
    assert "budget_usd 5.5 is spent: the search ends; 6 of 8 trials did not run\n" in said.getvalue()
    assert "1 at once, at most $1.50 an hour" in said.getvalue()
    before = load(tmp_path / "tiny").trials.query("stage == 'search'").set_index("trial_id")
    assert list(before.index) == ["search-0000-fp32", "search-0000-bf16-mixed"]
    assert list(before["status"]) == ["completed", "pruned"]
    assert before["status_reason"].iloc[1] == "stopped by budget_usd 5.5 after epoch 2"
    assert list(before["cost_usd"]) == pytest.approx([3 * 2 * 0.75, 2 * 2 * 0.75])

    assert hours == 5
    is_confirming.append("again")
    said = io.StringIO()
    going_on = dataclasses.replace(sweep, resume=True)
    results = run(going_on, Console(file=said, width=200))
    assert "budget_usd 5.5 is spent: the search ends; 6 of 6 trials did not run\n" in said.getvalue()
    after = results.trials.query("stage == 'search'").set_index("trial_id")
    assert after.equals(before)
    confirm = results.trials.query("stage == 'confirm'")
    assert set(confirm["precision"]) == set(PRECISIONS)
    assert set(confirm["status"]) == {"completed"}
    assert (confirm["cost_usd"] >= 3 * 2 * 0.75).all()
    assert (results.timings["cost_usd"] > 0).all()
    verdict = results.verdicts.query("config_id != 'best'").iloc[0]
    assert verdict["cost_ratio"] == pytest.approx(1 / verdict["speedup"], nan_ok=True)  # NaN where others use the CPUs
    assert list(results.costs["num_known"]) == list(results.costs["num_runs"])
    told = io.StringIO()
    print_report(results, Console(file=told, width=80))
    assert "\nCost  $" in told.getvalue()
    task = find_task(sweep.task)
    past = read_past(tmp_path / "tiny", dataclasses.replace(going_on, budget_usd=99), task)
    assert past.run_s == pytest.approx(5 * 3600)  # without confirm
    assert past.spent_usd >= 5 * 2 * 0.75
    with pytest.raises(SweepError, match=r"resume: .* a budget for more trials"):
        read_past(tmp_path / "tiny", going_on, task)
