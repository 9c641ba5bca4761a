import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler

from sweeps.engine.sweep import Confirm, Sweep, SweepError
from sweeps.search.space import choice, loguniform, uniform
from trainables.spec import Budget


def declare(**fields: Any) -> Sweep:
    return Sweep(**{"name": "digits", "task": "trainables.tasks.digits:build", "space": {"lr": 0.1}} | fields)


class HasSuggest:
    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}


def test_points_take_the_place_of_any_searcher() -> None:
    for searcher in ("tpe", "grid", "sobol", HasSuggest()):
        assert declare(searcher=searcher, points="points.jsonl", space={}).points == "points.jsonl"


def test_defaults() -> None:
    sweep = declare()
    assert sweep.precisions == ("fp32", "bf16-mixed", "fp16-mixed")
    assert (sweep.max_epochs, sweep.max_steps, sweep.num_trials) == (10, None, 32)
    assert sweep.confirm == Confirm(top_k=1, num_seeds=6, target_speedup=1.5, margin=0.01)
    assert sweep.baselines == ("fp32",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"precisions": ("fp32", "bf61-mixed")},
            "precisions: must be a known name, got 'bf61-mixed'; did you mean",
        ),
        ({"precisions": ("fp32", "fp64")}, "precisions: .*valid: fp32, tf32, bf16-mixed, fp16-mixed, bf16-true"),
        ({"precisions": ("fp32", "fp32")}, "precisions: must name each precision once, got 'fp32,fp32'"),
        ({"precisions": ()}, "precisions: must be a list of at least one"),
        ({"precisions": "fp32"}, "precisions: must be a list of at least one"),
        (
            {"precisions": ("bf16-mixed",)},
            "precisions: confirm needs a baseline .*add fp32, or stop before with",
        ),
        ({"num_trials": -1}, "num_trials: must be a whole number of at least 0, got -1"),
        ({"num_trials": True}, "num_trials: "),
        ({"num_trials": 2.0}, "num_trials: "),
        ({"num_trials": None}, "num_trials: "),
        ({"max_epochs": 0}, "max_epochs: "),
        ({"max_steps": -1}, "max_steps: "),
        ({"max_epochs": 1, "max_steps": 10}, "max_steps: must not be given along with max_epochs"),
        ({"stop_at": 0.95}, "stop_at: must hold metrics and their values, got 0.95; for example"),
        ({"stop_at": {}}, "stop_at: must hold metrics"),
        ({"stop_at": {3: 0.5}}, "stop_at: must hold metrics"),
        ({"stop_at": {"val_accuracy": "high"}}, "stop_at: must hold finite numbers, got 'high'"),
        ({"stop_at": {"val_accuracy": float("nan")}}, "stop_at: must hold finite numbers, got nan"),
        ({"stop_at": {"val_accuracy": True}}, "stop_at: must hold finite numbers"),
        ({"patience": 0}, "patience: must be a whole number of at least 1"),
        ({"patience": 2, "min_delta": -0.1}, "min_delta: must be a finite number of at least 0"),
        ({"usd_per_hour": {}}, "usd_per_hour: must hold a price, got {}"),
        ({"usd_per_hour": "cheap"}, "usd_per_hour: must be a finite number above 0"),
        ({"usd_per_hour": True}, "usd_per_hour: must be a finite number above 0"),
        ({"usd_per_hour": {3: 0.5}}, "usd_per_hour: must hold prices by names of devices or node types, got 3"),
        ({"usd_per_hour": {"--": 0.5}}, "usd_per_hour: must hold prices by names"),
        ({"usd_per_hour": {"H100": float("inf")}}, r"usd_per_hour: must hold finite prices above 0 \(H100\), got inf"),
        ({"usd_per_hour": {"H100": 1, "h100": 1}}, "usd_per_hour: must name each device once, got 'H100,h100'"),
        ({"budget_usd": 5}, "budget_usd: needs usd_per_hour, the price of a node, got 5; give it, or budget_hours"),
        ({"budget_usd": "5", "usd_per_hour": 1}, "budget_usd: must be a finite number above 0"),
        ({"budget_hours": float("nan")}, "budget_hours: must be a finite number above 0"),
        ({"num_trials": 0, "space": {}, "budget_hours": 1}, "budget_hours: needs a search that it may end"),
        ({"min_delta": 0.1}, "min_delta: needs patience, got 0.1; give the reports"),
        ({"report_every_steps": 5}, "report_every_steps: needs a budget in steps"),
        ({"max_steps": 5, "report_every_steps": 0}, "report_every_steps: "),
        ({"grace_period": 0}, "grace_period: "),
        ({"grace_period": 11}, "grace_period: must be at most the 10 reports"),
        ({"reduction_factor": 1}, "reduction_factor: "),
        ({"reduction_factor": 2.5}, "reduction_factor: "),
        ({"scheduler": "ahsa"}, "scheduler: must be a known name, got 'ahsa'; did you mean 'asha'"),
        ({"scheduler": object()}, "scheduler: "),
        ({"scheduler": None}, "scheduler: "),
        ({"searcher": "gird"}, "searcher: must be a known name, got 'gird'; did you mean 'grid'"),
        (
            {"searcher": 3},
            "searcher: must be a name or a Ray Tune Searcher, got 3; use one of random, grid, sobol, tpe",
        ),
        ({"searcher": "tpee"}, "searcher: must be a known name, got 'tpee'; did you mean 'tpe'"),
        ({"searcher": HasSuggest}, "searcher: must be a name or a Ray Tune Searcher, got <class .*an object such as"),
        (
            {"searcher": "tpe", "space": {"lr": 0.1}},
            "searcher: tpe needs a space that leaves something open, got 'tpe'",
        ),
        ({"searcher": "tpe", "space": {}}, "searcher: tpe needs a space that leaves something open"),
        (
            {"searcher": "grid", "space": {"lr": uniform(0, 1)}},
            r"space\['lr'\]: must be a choice or a constant in a grid",
        ),
        ({"mode": "maximum"}, "mode: "),
        ({"stage": "serch"}, "stage: must be a known name, got 'serch'; did you mean 'search'"),
        ({"metric": ""}, "metric: "),
        ({"metric": 3}, "metric: "),
        ({"space": {"precision": choice(["fp32"])}}, "space: cannot hold the precision or the seed, got 'precision'"),
        ({"space": {"seed": 1}}, "space: cannot hold the precision or the seed, got 'seed'"),
        ({"space": {"width": [1, 2]}}, r"space\['width'\]: "),
        ({"space": None}, "space: "),
        ({"name": "a/b"}, "name: must name a folder"),
        ({"name": ""}, "name: "),
        ({"run_name": ".."}, "run_name: must name a folder"),
        ({"run_name": "../other"}, "run_name: must name a folder"),
        ({"run_name": ""}, "run_name: "),
        ({"task": "digits"}, "task: must name a function"),
        ({"task": ":build"}, "task: must name a function"),
        ({"task": "digits:"}, "task: must name a function"),
        ({"task": "digits:2x"}, "task: must name a function"),
        ({"task": 3}, "task: "),
        ({"cpus_per_trial": 0}, "cpus_per_trial: must be a finite number of at least 0.0001"),
        ({"cpus_per_trial": None}, "cpus_per_trial: "),
        ({"gpus_per_trial": -0.5}, "gpus_per_trial: must be a finite number of at least 0"),
        ({"gpus_per_trial": float("nan")}, "gpus_per_trial: "),
        ({"gpus_per_trial": 1.5}, "gpus_per_trial: must be whole above 1, got 1.5; round to 1 or 2"),
        ({"seed": -1}, "seed: "),
        ({"seed": False}, "seed: "),
        ({"storage": ""}, "storage: "),
        ({"storage": None}, "storage: "),
        ({"points": ""}, "points: "),
        ({"address": 3}, "address: "),
        ({"resume": 1}, "resume: must be True or False"),
        ({"compile": "yes"}, "compile: must be True or False"),
        ({"dry_run": "no"}, "dry_run: must be True or False"),
        ({"confirm": {"top_k": 1}}, "confirm: must be a Confirm or None"),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=r"^" + message) as caught:
        declare(**fields)
    assert "\n" not in str(caught.value)
    assert ", got " in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 0}, r"confirm\.top_k: "),
        ({"num_seeds": 0}, r"confirm\.num_seeds: "),
        ({"num_seeds": True}, r"confirm\.num_seeds: "),
        ({"target_speedup": 0}, r"confirm\.target_speedup: "),
        ({"target_speedup": float("nan")}, r"confirm\.target_speedup: "),
        ({"margin": -0.01}, r"confirm\.margin: "),
        ({"margin": float("inf")}, r"confirm\.margin: "),
    ],
)
def test_confirm_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=r"^" + message):
        Confirm(**fields)


def test_accepted() -> None:
    assert declare(precisions=["bf16-mixed"], stage="search").baselines == ()
    assert declare(precisions=["bf16-mixed"], confirm=None).confirm is None
    assert declare(precisions=["tf32", "fp32"]).baselines == ("fp32", "tf32")
    assert declare(space={}).space == {}
    assert declare(grace_period=11, scheduler="fifo").grace_period == 11
    assert declare(gpus_per_trial=2.0).gpus_per_trial == 2
    assert declare(storage="~/runs").storage == os.path.expanduser("~/runs")
    assert declare(storage=Path("a") / "b", points=Path("p.jsonl")).storage == str(Path("a") / "b")
    assert declare(searcher="grid", points="p.jsonl", space={"lr": uniform(0, 1)}).points == "p.jsonl"


@pytest.mark.parametrize(
    ("fields", "budget", "max_reports"),
    [
        ({}, Budget(max_epochs=10), 10),
        ({"max_epochs": 3}, Budget(max_epochs=3), 3),
        ({"max_steps": 1000}, Budget(max_steps=1000, report_every_steps=100), 10),
        ({"max_steps": 1000, "report_every_steps": 300}, Budget(max_steps=1000, report_every_steps=300), 4),
        ({"max_steps": 900, "report_every_steps": 300}, Budget(max_steps=900, report_every_steps=300), 3),
        ({"max_steps": 7}, Budget(max_steps=7, report_every_steps=1), 7),
        ({"max_steps": 19}, Budget(max_steps=19, report_every_steps=1), 19),
        ({"max_steps": 5, "report_every_steps": 50}, Budget(max_steps=5, report_every_steps=50), 1),
    ],
)
def test_budget(fields: dict[str, int], budget: Budget, max_reports: int) -> None:
    sweep = declare(**fields)
    assert sweep.budget == budget
    assert sweep.max_reports == max_reports


def test_json() -> None:
    sweep = declare(
        space={"lr": loguniform(1e-4, 1e-2), "width": 16},
        precisions=("fp32", "tf32", "bf16-mixed"),
        metric="val_accuracy",
        mode="max",
        run_name="first",
        max_steps=100,
    )
    data = json.loads(json.dumps(sweep.to_json(), allow_nan=False))
    assert data["schema"] == 1
    assert data["space"] == {"lr": {"domain": "loguniform", "low": 1e-4, "high": 1e-2}, "width": 16}
    assert (data["precisions"], data["baselines"]) == (["fp32", "tf32", "bf16-mixed"], ["fp32", "tf32"])
    assert (data["max_epochs"], data["max_steps"], data["report_every_steps"]) == (None, 100, 10)
    assert data["confirm"] == {"top_k": 1, "num_seeds": 6, "target_speedup": 1.5, "margin": 0.01}
    assert {field.name for field in dataclasses.fields(Sweep)} <= set(data)


def test_json_names_objects_by_class() -> None:
    class Custom:
        def suggest(self) -> None: ...

    data = declare(scheduler=FIFOScheduler(), searcher=Custom(), confirm=None).to_json()
    assert (data["scheduler"], data["searcher"], data["confirm"]) == ("FIFOScheduler", "Custom", None)


def test_a_declaration_is_a_value() -> None:
    space = {"lr": 0.1}
    sweep = declare(space=space)
    space["lr"] = 0.2
    assert sweep.space == {"lr": 0.1}
    assert pickle.loads(pickle.dumps(sweep)) == sweep
    assert dataclasses.replace(sweep, num_trials=4).num_trials == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        sweep.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("declaration", [Sweep, Confirm])
def test_every_field_is_documented(declaration: type) -> None:
    for field in dataclasses.fields(declaration):
        assert field.metadata["help"]
        assert f"    {field.name}: {field.metadata['help']}." in str(declaration.__doc__)
