"""A searcher that follows results, in a whole sweep on a real Ray; planned ones run in the other sweeps."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from analysis import load
from sweeps import Sweep, choice, loguniform, run
from sweeps.engine.recorder import Recorder
from sweeps.search.plan import search_seed

pytestmark = pytest.mark.ray
PRECISIONS = ("fp32", "bf16-mixed")


def test_tpe_goes_on_after_nan_trials_and_an_interruption(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sweep = Sweep(
        name="tiny",
        task="trainables.tasks.digits:build",
        space={"learning_rate": choice([3e-3, 1e30]), "weight_decay": loguniform(1e-5, 1e-1), "width": 4},
        precisions=PRECISIONS,
        num_trials=10,
        max_epochs=2,
        scheduler="fifo",
        searcher="tpe",
        stage="search",
        storage=str(tmp_path),
        run_name="tpe",
    )
    record = Recorder.record
    num_ended = Counter()

    def interrupt(self: Recorder, kind: str, row: dict) -> None:
        record(self, kind, row)
        num_ended[row["trial_id"].startswith("search") and row.get("status") in ("completed", "diverged")] += 1
        if num_ended[True] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(sweep)
    before = load(tmp_path / "tpe").trials.query("stage == 'search' and status != 'running'")
    assert len(before) == 5
    trials = run(dataclasses.replace(sweep, resume=True)).trials.query("stage == 'search'")
    assert sorted(trials["trial_id"]) == sorted(
        f"search-{index:04d}-{precision}" for index in range(5) for precision in PRECISIONS
    )
    assert list(trials["seed"]) == [search_seed(0, int(trial_id.split("-")[1])) for trial_id in trials["trial_id"]]
    assert not trials.duplicated(["precision", "config_id"]).any()
    failed = trials["config/learning_rate"] == 1e30
    assert 0 < failed.sum() < 10
    assert set(trials[failed]["status"]) == {"diverged"}
    assert set(trials[~failed]["status"]) == {"completed"}
    kept = trials.set_index("trial_id").loc[list(before["trial_id"])]
    assert list(kept["ended_at"]) == list(before["ended_at"])
    first = trials[trials["trial_id"].str.startswith("search-0000")]
    assert first["block_id"].nunique() == 1  # searchers of equal seed begin alike, so that their trials pair
