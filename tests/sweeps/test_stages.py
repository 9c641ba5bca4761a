"""What stages decide before anything runs."""

from sweeps.engine.stages import describe_probe, in_halves
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
