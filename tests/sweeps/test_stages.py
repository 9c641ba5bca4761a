"""What stages decide before anything runs."""

from pathlib import Path

import pytest

from sweeps import Sweep, SweepError, run
from sweeps.engine import stages
from sweeps.engine.journal import Journal
from sweeps.engine.stages import describe_probe, in_halves
from sweeps.search.checks import Unfinished
from sweeps.search.plan import plan_confirm


def test_halves_hold_every_block_once_and_every_configuration() -> None:
    trials = plan_confirm([{"width": 1}, {"width": 2}], ["fp32", "bf16-mixed"], num_seeds=4, sweep_seed=0)
    early, late = in_halves(trials)
    assert sorted(t.trial_id for t in early + late) == sorted(t.trial_id for t in trials)
    assert not {t.block_id for t in early} & {t.block_id for t in late}
    for half in (early, late):
        assert len({t.block_id for t in half}) == 4
        assert len({t.config_id for t in half}) == 2
    assert in_halves([]) == ([], [])
    alone = [t for t in trials if t.block_id == trials[0].block_id]
    assert in_halves(alone) == (alone, [])


def test_a_probe_in_a_line() -> None:
    usable = {"precision": "fp32", "status": "completed", "status_reason": None, "step_ms": 1.234, "device": "X"}
    assert describe_probe(usable) == "fp32           1.23 ms a step on X"
    left_out = {"precision": "tf32", "status": "unsupported", "status_reason": "why"}
    assert describe_probe(left_out) == "tf32           left out, unsupported: why"


def test_a_driver_that_comes_second_leaves_the_folder_of_the_first_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers begin one run name at the same moment: both find the folder free, one gets the lock."""
    monkeypatch.setattr(stages, "run_folder", lambda sweep: tmp_path / "first")
    with Journal(tmp_path / "first") as first:
        first.write("trial", {"trial_id": "a", "stage": "search"})
        with pytest.raises(SweepError, match="run_name: must not be in use by another driver"):
            run(Sweep(name="s", task="trainables.tasks.digits:build", space={}, storage=str(tmp_path)))
        (file,) = (tmp_path / "first" / "journal").iterdir()
        assert "search" in file.read_text()


@pytest.mark.parametrize(("stage", "error", "kept"), [("probe", SweepError, False), ("search", Unfinished, True)])
def test_a_refused_run_keeps_its_folder_once_a_trial_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: type[Exception], kept: bool
) -> None:
    def refused(this: stages._Run, metric: str, mode: str, **more: object) -> None:
        this.recorder.journal.write("trial", {"trial_id": "a", "stage": stage})
        raise SweepError("planted")

    monkeypatch.setattr(stages._Run, "declare", refused)
    storage = tmp_path / "new" / "storage"
    with pytest.raises(error, match="planted"):
        run(Sweep(name="s", task="trainables.tasks.digits:build", space={}, storage=storage, run_name="r"))
    assert (storage / "r").exists() is kept
    assert (tmp_path / "new").exists() is kept
