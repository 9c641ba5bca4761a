"""Sweeps without a search, and the script that declares one: what they confirm, refuse and say."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import ResultsError, load
from analysis.shortfall import shortfall
from sweeps import Confirm, Sweep, SweepError, choice, run, tune_model
from sweeps.amp_speedup import sweep as amp_speedup
from sweeps.engine import stages
from sweeps.engine.cli import main_with_task
from sweeps.engine.dry_run import describe
from sweeps.engine.flags import SEARCH_ONLY, build_parser, parse_task
from sweeps.engine.hyperparameter_flags import flag_of
from sweeps.search.plan import follows_results, plan_search, preview
from sweeps.search.unsearched import given_configs
from trainables.hyperparameters import RESERVED

TASK = "trainables.tasks.digits:build"


def declare(**fields: Any) -> Sweep:
    known = {"name": "s", "task": TASK, "space": {"width": 4}, "precisions": ("fp32", "bf16-mixed"), "num_trials": 0}
    return Sweep(**known | fields)


def points(folder: Path, *lines: dict[str, Any]) -> str:
    path = folder / "points.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_constants_are_the_one_configuration() -> None:
    sweep = declare(space={"learning_rate": 3e-3, "width": 8}, searcher="tpe")
    assert given_configs(sweep) == [{"learning_rate": 3e-3, "width": 8}]
    assert given_configs(declare(space={})) == [{}]
    num_trials, first = preview(sweep, ["fp32", "bf16-mixed"])
    assert (num_trials, first.config, first.precision) == (0, {"learning_rate": 3e-3, "width": 8}, "fp32")
    assert plan_search(sweep, ["fp32"]) == []
    assert not follows_results(sweep)


def test_points_are_confirmed_each_once_and_not_searched(tmp_path: Path) -> None:
    path = points(tmp_path, {"width": 8}, {"width": 16, "seed": None}, {"width": 8})
    sweep = declare(space={"width": choice([4, 8])}, points=path)
    assert given_configs(sweep) == [{"width": 8}, {"width": 16}]
    assert preview(sweep, ["fp32"])[1].config == {"width": 8}
    assert plan_search(sweep, ["fp32"]) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"space": {"width": choice([4, 8])}},
            r"space\['width'\]: must be a single value where num_trials is 0, got .*points",
        ),
        ({"stage": "search"}, "stage: must be probe or confirm where num_trials is 0, got 'search'; leave it out"),
        ({"confirm": None}, "confirm: must be given where num_trials is 0, got None; for example Confirm"),
        ({"num_trials": -1}, "num_trials: must be a whole number of at least 0"),
    ],
)
def test_what_leaves_something_open_or_does_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        declare(**fields)
    declare(stage="probe", confirm=None)


@pytest.mark.parametrize(("name", "value"), [("precision", "fp32"), ("seed", 3)])
def test_points_that_say_what_confirm_chooses_are_refused(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(SweepError, match=f"points: must not name a {name} where num_trials is 0.*leave it out"):
        run(declare(points=points(tmp_path, {"width": 4}, {"width": 8, name: value}), storage=str(tmp_path)))


def test_a_dry_run_says_what_would_be_confirmed(tmp_path: Path) -> None:
    said = describe(declare(space={"width": 4, "learning_rate": 0.01}, max_epochs=3, storage=str(tmp_path)))
    assert "search  none; what is confirmed is\n        width=4 learning_rate=0.01\n" in said
    assert "confirm at most 12 full runs of 3 epochs, 6 timed pairs" in said
    assert "every hyperparameter by default" in describe(declare(space={}, storage=str(tmp_path)))


def test_a_dry_run_from_python_shows_the_plan_and_has_results_without_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "connected", None)  # Ray is not wanted
    sweep = declare(max_epochs=3, storage=str(tmp_path), dry_run=True)
    data = torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64)
    same = {"space": {"width": 4}, "precisions": sweep.precisions, "num_trials": 0, "max_epochs": 3, "dry_run": True}
    for dry_run in (
        lambda: run(sweep),
        lambda: tune_model(lambda config: torch.nn.Linear(4, 2), data, data, storage=str(tmp_path), **same),
    ):
        results = dry_run()
        assert capsys.readouterr().out == describe(sweep) + "\n"
        for table in (results.trials, results.history, results.timings, results.verdicts, results.arms):
            assert table.empty
            assert "precision" in table or table is results.history
        assert results.summary().empty
        with pytest.raises(ResultsError):
            results.best()
    assert not list(tmp_path.iterdir())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(SweepError, match="run_name: must be new in"):
        run(dataclasses.replace(sweep, run_name="taken"))


def test_the_loop_s_hyperparameters_are_flags_and_the_task_s_own_are_a_space() -> None:
    words = ["mine.py:build", "--learning-rate", "3e-3", "--batch-size", "32", "--optimizer", "sgd"]
    sweep = parse_task(amp_speedup, [*words, "--space", "width=16", "--precisions", "fp32,bf16-true"])
    assert sweep.task == "mine.py:build"
    assert sweep.space == {"learning_rate": 3e-3, "batch_size": 32, "optimizer": "sgd", "width": 16}
    assert (sweep.num_trials, sweep.precisions) == (0, ("fp32", "bf16-true"))
    assert parse_task(amp_speedup, []) == amp_speedup


def test_help_explains_every_hyperparameter_and_nothing_of_a_search() -> None:
    shown = build_parser(amp_speedup, takes_task=True).format_help()
    assert all(f"  {flag_of(name)} " in shown for name in RESERVED)
    fields = {field.name for field in dataclasses.fields(Sweep)} - {"confirm", "task"}
    fields |= {f"confirm_{field.name}" for field in dataclasses.fields(Confirm)}
    for name in fields:
        assert (f"  {flag_of(name)}" in shown) is (name not in SEARCH_ONLY), name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--learning-rate loguniform:1e-5:1e-3",
            "--learning-rate: must be a finite number of at least 0, got 'loguniform",
        ),
        ("--batch-size 0", "--batch-size: must be a whole number of at least 1, got '0'; give one value"),
        ("--warmup-frac nan", "--warmup-frac: value: must be a finite number"),
        ("--batch-size 10 --accumulate-steps 3", "--accumulate-steps: must divide the batch_size of 10, got 3"),
        ("--learning-rate 1 --space learning_rate=2", "--space: must name each hyperparameter once"),
        ("--space width=choice:4,8", "--space width: must be a single value"),
        ("--num-trials 3", "--num-trials: must be a known flag"),
        ("no_such_module:build", "task: must lie in an existing module"),
    ],
)
def test_bad_input_is_one_line(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main_with_task(amp_speedup, words.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"error: {told}")
    assert not list(tmp_path.iterdir())


@pytest.mark.quiet
@pytest.mark.ray
def test_the_speed_up_of_one_configuration_from_flags_to_verdict_and_on(
    ray_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [TASK, "--learning-rate", "3e-3", "--space", "width=4", "--max-epochs", "1", "--storage", str(tmp_path)]
    words += ["--run-name", "r", "--precisions", "fp32,tf32,bf16-mixed", "--confirm-margin", "1"]

    def ends_with(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main_with_task(amp_speedup, [*words, *more])
        return int(ended.value.code or 0)

    assert ends_with("--stage", "probe") == 0
    assert "no search; results go to" in capsys.readouterr().out
    assert ends_with("--confirm-num-seeds", "1", "--resume") == 0
    assert "confirm the configuration: 2 full runs and 1 timed pairs" in capsys.readouterr().out
    results = load(tmp_path / "r")
    trials = results.trials.set_index("trial_id")
    assert dict(trials.groupby("stage").size()) == {"probe": 3, "confirm": 2}
    assert trials.loc["probe-tf32", "status"] == "unsupported"
    confirmed = trials[trials["stage"] == "confirm"]
    assert set(confirmed["config/learning_rate"]) == {3e-3}
    assert confirmed["block_id"].nunique() == confirmed["init_digest"].nunique() == 1
    assert sorted(confirmed["precision"]) == ["bf16-mixed", "fp32"]
    own, best = results.verdicts.drop(columns=["config_id", "reason"]).to_dict("records")
    assert list(results.verdicts["config_id"]) == [confirmed["config_id"].iloc[0], "best"]
    assert own["num_pairs"] == best["num_pairs"]
    assert list(results.arms["precision"]) == ["fp32", "bf16-mixed"]
    assert results.arms["route"].notna().all()
    assert results.timings["window_ms"].map(len).ge(8).all()
    assert shortfall(results) is None
