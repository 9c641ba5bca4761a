"""A search under each of Ray's schedulers, with trials that diverge and fail; on one slot, which orders events."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import Results
from analysis.journal import read_journal
from sweeps import Sweep, choice, loguniform, run
from sweeps.engine.winners import winners
from sweeps.search.configurations import config_id

pytestmark = pytest.mark.ray

GOOD = {"learning_rate": 1e-2, "width": 4, "seed": 5}
FAIR = {"learning_rate": 4e-3, "width": 4, "seed": 6}
BAD = {"learning_rate": 1e-9, "width": 8, "seed": 7}
DIVERGES = {"learning_rate": 1e30, "width": 4, "seed": 8}
FAILS = {"learning_rate": 1e-2, "width": -1, "seed": 9}
SPACE = {"learning_rate": loguniform(1e-4, 1e-1), "width": choice([4, 8])}


class Searched:
    """What a search over some points came to, by the number of the point."""

    def __init__(self, folder: Path, scheduler: str, points: list[dict[str, Any]], **fields: Any) -> None:
        file = folder / f"{scheduler}.jsonl"
        file.write_text("".join(json.dumps(point) + "\n" for point in points))
        options: dict[str, Any] = {"max_epochs": 2, "reduction_factor": 2, "stage": "search", "confirm": None}
        options["route"] = "default"  # two searches are compared bit for bit: neither may take another kernel route
        self.folder = folder / scheduler
        self.results: Results = run(
            Sweep(
                name="pruned",
                task="trainables.tasks.digits:build",
                space=SPACE,
                precisions=("fp32",),
                metric="val_accuracy",
                points=str(file),
                cpus_per_trial=2,
                scheduler=scheduler,
                storage=str(folder),
                run_name=scheduler,
                **options | fields,
            )
        )

    def __getitem__(self, index: int) -> "pd.Series[Any]":
        return self.results.trials.set_index("trial_id").loc[f"search-{index:04d}-fp32"]

    def history(self, index: int) -> pd.DataFrame:
        history = self.results.history
        return history[history["trial_id"] == f"search-{index:04d}-fp32"].reset_index(drop=True)

    @property
    def statuses(self) -> list[str]:
        searched = self.results.trials[self.results.trials["stage"] == "search"]
        return list(searched.sort_values("trial_id")["status"])


@pytest.fixture(scope="module")
def median(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return Searched(tmp_path_factory.mktemp("runs"), "median", [GOOD, FAIR, DIVERGES, FAILS, BAD])


@pytest.fixture(scope="module")
def hyperband(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Two brackets of two: the first runs to the end, the second halves after one epoch."""
    return Searched(tmp_path_factory.mktemp("runs"), "hyperband", [DIVERGES, FAIR, GOOD, BAD, FAILS])


@pytest.fixture(scope="module")
def pbt(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return Searched(tmp_path_factory.mktemp("runs"), "pbt", [FAIR, GOOD, DIVERGES, FAILS, BAD], max_epochs=3)


def test_the_median_rule_stops_what_falls_behind(median: Searched) -> None:
    assert median.statuses == ["completed", "completed", "diverged", "errored", "pruned"]
    assert median[4]["epochs"] == 1
    assert median[4]["status_reason"] == "stopped by median after epoch 1"


def test_hyperband_pauses_and_goes_on_as_if_it_had_not(hyperband: Searched, median: Searched) -> None:
    assert hyperband.statuses == ["diverged", "completed", "completed", "pruned", "errored"]
    good, bad = hyperband[2], hyperband[3]
    assert good["started_at"] < bad["started_at"] < bad["ended_at"] < good["ended_at"]  # on one slot: it was paused
    assert (bad["epochs"], bad["status_reason"]) == (1, "stopped by hyperband after epoch 1")
    compared = ["epoch", "step", "train_loss", "val_loss", "val_accuracy", "grad_norm", "learning_rate"]
    pd.testing.assert_frame_equal(hyperband.history(2)[compared], median.history(0)[compared], check_exact=True)
    assert (good["config_id"], good["data_digest"]) == (median[0]["config_id"], median[0]["data_digest"])


def test_pbt_goes_on_from_the_weights_of_the_best(pbt: Searched) -> None:
    assert pbt.statuses == ["completed", "completed", "diverged", "errored", "completed"]
    worst, history = pbt[4], pbt.history(4)
    assert list(history["epoch"]) == [1, 2, 3]
    assert history["learning_rate"][0] == 1e-9
    assert history["val_accuracy"][0] < 0.2
    assert history["val_accuracy"][1] > pbt.history(1)["val_accuracy"][0] - 0.1  # from there, not from scratch
    assert 1e-4 <= history["learning_rate"][1] <= 1e-1
    assert history["learning_rate"][2] == worst["config/learning_rate"]
    assert (worst["config/width"], worst["seed"]) == (4, 7)
    assert worst["started_at"] < worst["ended_at"]


def test_what_pbt_changed_is_what_the_journal_says(pbt: Searched) -> None:
    recorded = read_journal(pbt.folder).trials["search-0004-fp32"]
    assert recorded["config_id"] == config_id(recorded["config"])
    assert recorded["block_id"] == f"{recorded['config_id']}-7"
    assert recorded["donor"] in ("search-0000-fp32", "search-0001-fp32")
    lines = "".join(file.read_text() for file in sorted((pbt.folder / "journal").iterdir())).splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "trial" and row["trial_id"] == "search-0004-fp32"]
    assert rows[0]["config"] == {"learning_rate": 1e-9, "width": 8}
    assert [row["status"] for row in rows][-2:] == ["running", "completed"]
    configs = [trial["config"] for trial in read_journal(pbt.folder).trials.values() if trial["stage"] == "search"]
    (best,) = winners(pbt.folder, "val_accuracy", "max", top_k=1)
    assert best in configs
