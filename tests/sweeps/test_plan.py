import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.rows import started
from sweeps.engine.sweep import Sweep
from sweeps.search.checks import SweepError
from sweeps.search.configurations import config_id, sample
from sweeps.search.plan import (
    FIRST_CONFIRM_SEED,
    confirm_seeds,
    plan_confirm,
    plan_left_out,
    plan_search,
    preview,
    recorded_trial,
    search_seed,
)
from sweeps.search.space import choice, loguniform

SPACE = {"learning_rate": loguniform(1e-4, 1e-2), "width": choice([16, 32])}


def declare(**fields: Any) -> Sweep:
    return Sweep(**{"name": "digits", "task": "tasks:build", "space": SPACE} | fields)


def write_points(folder: Path, *points: Mapping[str, Any]) -> str:
    path = folder / "points.jsonl"
    path.write_text("".join(json.dumps(point) + "\n" for point in points))
    return str(path)


def test_precisions_of_a_configuration_run_in_a_row_and_the_last_may_be_cut() -> None:
    plan = plan_search(declare(num_trials=5), ["fp32", "bf16-mixed"])
    assert [trial.trial_id for trial in plan] == [
        "search-0000-fp32",
        "search-0000-bf16-mixed",
        "search-0001-fp32",
        "search-0001-bf16-mixed",
        "search-0002-fp32",
    ]
    assert [trial.index for trial in plan] == [0, 0, 1, 1, 2]
    assert [trial.config for trial in plan[::2]] == [sample(SPACE, 0, index) for index in range(3)]


def test_runs_of_one_configuration_are_a_block() -> None:
    first, second, other = plan_search(declare(num_trials=3), ["fp32", "bf16-mixed"])
    assert first.config == second.config
    assert first.seed == second.seed == search_seed(0, 0)
    assert first.block_id == second.block_id == f"{config_id(first.config)}-{first.seed}"
    assert other.block_id != first.block_id


def test_a_run_does_not_depend_on_the_precisions_that_remain() -> None:
    both = {trial.trial_id: trial for trial in plan_search(declare(num_trials=8), ["fp32", "bf16-mixed"])}
    alone = {trial.trial_id: trial for trial in plan_search(declare(num_trials=4), ["bf16-mixed"])}
    assert alone == {name: trial for name, trial in both.items() if trial.precision == "bf16-mixed"}


def test_another_sweep_seed_gives_other_configurations_and_seeds() -> None:
    here, there = (plan_search(declare(num_trials=4, seed=seed), ["fp32"]) for seed in (0, 1))
    assert not {trial.seed for trial in here} & {trial.seed for trial in there}
    assert not {trial.config_id for trial in here} & {trial.config_id for trial in there}


def test_grid_ends_by_itself_or_at_num_trials() -> None:
    space = {"width": choice([16, 32, 64]), "optimizer": "adamw"}
    whole = plan_search(declare(space=space, searcher="grid"), ["fp32", "bf16-mixed"])
    assert [(trial.config["width"], trial.precision) for trial in whole] == [
        (width, precision) for width in (16, 32, 64) for precision in ("fp32", "bf16-mixed")
    ]
    assert plan_search(declare(space=space, searcher="grid", num_trials=4), ["fp32", "bf16-mixed"]) == whole[:4]


def test_sobol_is_crossed_with_precisions_and_more_trials_extend_fewer() -> None:
    more = plan_search(declare(searcher="sobol", num_trials=16), ["fp32", "bf16-mixed"])
    assert plan_search(declare(searcher="sobol", num_trials=8), ["fp32", "bf16-mixed"]) == more[:8]
    assert [trial.config for trial in more[::2]] == [trial.config for trial in more[1::2]]
    alone = plan_search(declare(searcher="sobol", num_trials=8), ["bf16-mixed"])
    assert alone == more[1::2]


def test_a_preview_is_the_number_of_trials_and_the_first() -> None:
    plan = plan_search(declare(num_trials=5), ["fp32", "bf16-mixed"])
    assert preview(declare(num_trials=5), ["fp32", "bf16-mixed"]) == (5, plan[0])


def test_a_run_is_known_again_by_its_row() -> None:
    for trial in plan_search(declare(num_trials=4), ["fp32", "bf16-mixed"]):
        row = json.loads(json.dumps(started(trial, "search", 1, 0)))
        assert recorded_trial(row) == trial


def test_no_precision_left_means_no_run(tmp_path: Path) -> None:
    assert plan_search(declare(), []) == []
    assert plan_search(declare(points=write_points(tmp_path, {"lr": 1}, {"lr": 1, "precision": "fp32"})), []) == []


def test_points_run_exactly_and_are_not_cut(tmp_path: Path) -> None:
    path = write_points(
        tmp_path,
        {"lr": 0.1},
        {"lr": 0.2, "precision": "bf16-mixed"},
        {"lr": 0.3, "seed": 7},
        {"lr": 0.4, "seed": 8, "precision": "fp32"},
    )
    plan = plan_search(declare(points=path, num_trials=1, searcher="grid"), ["fp32", "bf16-mixed"])
    assert [(trial.trial_id, trial.config["lr"], trial.seed) for trial in plan] == [
        ("search-0000-fp32", 0.1, search_seed(0, 0)),
        ("search-0000-bf16-mixed", 0.1, search_seed(0, 0)),
        ("search-0001-bf16-mixed", 0.2, search_seed(0, 1)),
        ("search-0002-fp32", 0.3, 7),
        ("search-0002-bf16-mixed", 0.3, 7),
        ("search-0003-fp32", 0.4, 8),
    ]
    assert plan_left_out(declare(points=path), ["fp32", "bf16-mixed"]) == []


def test_points_that_differ_in_precision_alone_are_a_block(tmp_path: Path) -> None:
    path = write_points(
        tmp_path,
        {"lr": 0.1, "precision": "fp32"},
        {"lr": 0.2, "precision": "fp32"},
        {"lr": 0.1, "precision": "bf16-mixed"},
    )
    first, other, second = plan_search(declare(points=path), ["fp32", "bf16-mixed"])
    assert first.block_id == second.block_id != other.block_id


def test_points_in_a_precision_that_does_not_remain_are_listed_apart(tmp_path: Path) -> None:
    path = write_points(tmp_path, {"lr": 1, "precision": "fp32"}, {"lr": 1, "precision": "tf32"}, {"lr": 2})
    sweep = declare(points=path)
    assert [trial.trial_id for trial in plan_search(sweep, ["fp32"])] == ["search-0000-fp32", "search-0002-fp32"]
    assert [trial.trial_id for trial in plan_left_out(sweep, ["fp32"])] == ["search-0001-tf32"]
    assert plan_left_out(declare(), ["fp32"]) == []


def test_missing_points_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"^points: must be a readable file"):
        plan_search(declare(points=str(tmp_path / "absent")), ["fp32"])


def test_confirm_runs_every_configuration_seed_and_arm() -> None:
    configs = [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.1}]
    plan = plan_confirm(configs, ["fp32", "bf16-mixed"], num_seeds=2, sweep_seed=0)
    first, second = confirm_seeds(0, 2)
    here, there = config_id({"lr": 0.1}), config_id({"lr": 0.2})
    assert [trial.trial_id for trial in plan] == [
        f"confirm-{name}-{seed}-{precision}"
        for name in (here, there)
        for seed in (first, second)
        for precision in ("fp32", "bf16-mixed")
    ]
    assert [trial.index for trial in plan] == [0] * 4 + [1] * 4
    assert plan[0].block_id == plan[1].block_id == f"{here}-{first}"
    assert len({trial.block_id for trial in plan}) == 4


def test_confirm_seeds_never_change() -> None:
    assert confirm_seeds(0, 3) == [1199720681, 1199720682, 1199720683]


@given(st.integers(0, 2**32), st.integers(0, 10**6), st.integers(1, 50))
def test_confirm_seeds_are_new_distinct_and_extend(sweep_seed: int, index: int, num_seeds: int) -> None:
    seeds = confirm_seeds(sweep_seed, num_seeds)
    assert len(set(seeds)) == num_seeds
    assert all(FIRST_CONFIRM_SEED <= seed < 2**31 for seed in seeds)
    assert 0 <= search_seed(sweep_seed, index) < FIRST_CONFIRM_SEED
    assert confirm_seeds(sweep_seed, num_seeds + 3)[:num_seeds] == seeds


def test_confirm_avoids_seeds_that_points_used() -> None:
    first, second, third = confirm_seeds(0, 3)
    plan = plan_confirm([{"lr": 0.1}], ["fp32"], 2, sweep_seed=0, used_seeds={first})
    assert [trial.seed for trial in plan] == [second, third]
