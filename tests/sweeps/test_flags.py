import dataclasses
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler

from sweeps.engine.flags import build_parser, parse, parse_run
from sweeps.engine.sweep import Confirm, Sweep, SweepError
from sweeps.search.space import choice, loguniform, uniform

SCRIPT = Sweep(
    name="digits",
    task="trainables.tasks.digits:build",
    space={"learning_rate": loguniform(1e-4, 3e-2), "width": choice([16, 32, 64])},
    precisions=("fp32", "bf16-mixed"),
    metric="val_accuracy",
    mode="max",
    num_trials=24,
    max_epochs=12,
    confirm=Confirm(num_seeds=8),
    storage="100%/runs",
)

CASES: list[tuple[str, str, Any]] = [
    ("name", "--name other", "other"),
    ("task", "--task my/file.py:make", "my/file.py:make"),
    ("precisions", "--precisions fp32,fp16-mixed", ("fp32", "fp16-mixed")),
    ("metric", "--metric val_loss", "val_loss"),
    ("mode", "--mode min", "min"),
    ("num_trials", "--num-trials 8", 8),
    ("max_epochs", "--max-epochs 3", 3),
    ("max_steps", "--max-steps 30", 30),
    ("report_every_steps", "--max-steps 30 --report-every-steps 3", 3),
    ("scheduler", "--scheduler fifo", "fifo"),
    ("stop_at", "--stop-at val_accuracy=0.95 --stop-at val_loss=1e-2", {"val_accuracy": 0.95, "val_loss": 0.01}),
    ("patience", "--patience 3", 3),
    ("min_delta", "--patience 3 --min-delta 0.001", 0.001),
    ("usd_per_hour", "--usd-per-hour 1.2", 1.2),
    ("usd_per_hour", "--usd-per-hour NVIDIA-A10G=1.2,cpu=4e-1", {"NVIDIA-A10G": 1.2, "cpu": 0.4}),
    ("budget_usd", "--budget-usd 5 --usd-per-hour 1", 5.0),
    ("budget_hours", "--budget-hours 1.5", 1.5),
    ("grace_period", "--grace-period 2", 2),
    ("reduction_factor", "--reduction-factor 4", 4),
    ("searcher", "--searcher random", "random"),
    ("points", "--points points.jsonl", "points.jsonl"),
    ("cpus_per_trial", "--cpus-per-trial 2", 2.0),
    ("gpus_per_trial", "--gpus-per-trial 0.5", 0.5),
    ("workers_per_trial", "--workers-per-trial 2", 2),
    ("checkpoint_every_s", "--checkpoint-every-s 5", 5.0),
    ("route", "--route channels_last", "channels_last"),
    ("compile", "--compile", True),
    ("fsdp", "--workers-per-trial 2 --fsdp", True),
    ("storage", "--storage s3://bucket/sweeps", "s3://bucket/sweeps"),
    ("run_name", "--run-name first", "first"),
    ("seed", "--seed=1", 1),
    ("stage", "--stage search", "search"),
    ("address", "--address ray://head:10001", "ray://head:10001"),
    ("checkpoint_every_s", "--checkpoint-every-s 5", 5.0),
    ("wandb_project", "--wandb-project mine", "mine"),
    ("track", "--track tensorboard,wandb", ("tensorboard", "wandb")),
    ("resume", "--resume", True),
    ("dry_run", "--dry-run", True),
    ("confirm", "--confirm-top-k 2", Confirm(top_k=2, num_seeds=8)),
    ("confirm", "--confirm-num-seeds 10", Confirm(num_seeds=10)),
    ("confirm", "--confirm-target-speedup 1.2", Confirm(num_seeds=8, target_speedup=1.2)),
    ("confirm", "--confirm-margin 0", Confirm(num_seeds=8, margin=0)),
    ("space", "--space width=64", {**SCRIPT.space, "width": 64}),
]


@pytest.mark.parametrize(("field", "flags", "expected"), CASES, ids=[flags for _, flags, _ in CASES])
def test_a_flag_sets_its_field_and_no_other(field: str, flags: str, expected: object) -> None:
    parsed = parse(SCRIPT, flags.split())
    assert getattr(parsed, field) == expected
    budget = {"max_epochs", "max_steps", "report_every_steps"}
    together = {
        "min_delta": {"patience", "min_delta"},
        "wandb_project": {"wandb_project", "track"},
        "fsdp": {"fsdp", "workers_per_trial"},
        "budget_usd": {"budget_usd", "usd_per_hour"},
    }
    touched = budget if field in budget else together.get(field, {field})
    for other in dataclasses.fields(Sweep):
        if other.name not in touched:
            assert getattr(parsed, other.name) == getattr(SCRIPT, other.name)


def test_every_field_has_a_flag_and_a_case() -> None:
    assert {field for field, _, _ in CASES} == {field.name for field in dataclasses.fields(Sweep)}
    shown = build_parser(SCRIPT).format_help()
    names = [field.name for field in dataclasses.fields(Sweep) if field.name != "confirm"]
    names += [f"confirm-{field.name}" for field in dataclasses.fields(Confirm)]
    for name in names:
        assert f"  --{name.replace('_', '-')}" in shown


def test_no_flags_change_nothing() -> None:
    assert parse(SCRIPT, []) == SCRIPT


def test_space_merges_by_name() -> None:
    parsed = parse(SCRIPT, ["--space", "width=choice:8,16", "--space", "dropout=0"])
    assert parsed.space == {"learning_rate": loguniform(1e-4, 3e-2), "width": choice([8, 16]), "dropout": 0}
    assert list(parsed.space) == ["learning_rate", "width", "dropout"]


def test_of_a_flag_given_twice_the_later_counts() -> None:
    assert parse(SCRIPT, ["--num-trials", "4", "--num-trials", "8"]).num_trials == 8


def test_a_constant_may_hold_an_equals_sign() -> None:
    assert parse(SCRIPT, ["--space", "note=a=b"]).space["note"] == "a=b"


def test_targets_merge_by_name_and_are_given_once() -> None:
    script = parse(SCRIPT, ["--stop-at", "val_accuracy=0.9", "--stop-at", "val_loss=0.1"])
    assert parse(script, ["--stop-at", "val_loss=0.2"]).stop_at == {"val_accuracy": 0.9, "val_loss": 0.2}


def test_one_budget_replaces_the_other() -> None:
    steps = parse(SCRIPT, ["--max-steps", "100", "--report-every-steps", "20"])
    assert (steps.max_epochs, steps.max_steps, steps.report_every_steps) == (None, 100, 20)
    epochs = parse(steps, ["--max-epochs", "2"])
    assert (epochs.max_epochs, epochs.max_steps, epochs.report_every_steps) == (2, None, None)


def test_an_empty_name_is_told_without_the_names_of_another_flag() -> None:
    with pytest.raises(SweepError) as caught:
        parse(SCRIPT, ["--track", "wandb,"])
    assert str(caught.value) == "--track: must not have an empty name, got 'wandb,'; separate names by single commas"


def test_confirm_flags_where_the_script_confirms_nothing() -> None:
    script = dataclasses.replace(SCRIPT, confirm=None)
    assert parse(script, []).confirm is None
    assert parse(script, ["--confirm-top-k", "3"]).confirm == Confirm(top_k=3)


def test_help_shows_groups_and_the_scripts_defaults(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        parse(SCRIPT, ["--help"], prog="digits.py")
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert shown.startswith("usage: digits.py [flags]\n")
    assert "  learning_rate=loguniform:0.0001:0.03\n  width=choice:16,32,64\n" in shown
    assert "(default: 24)" in shown
    assert "(default: fp32,bf16-mixed)" in shown
    assert "(default: 100%/runs)" in shown
    assert "--confirm-num-seeds N         new seeds, and so pairs, of each configuration (default: 8)" in shown
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["what is tried:", "budget:", "confirm:", "resources:", "where and how:"]


def test_help_shows_prices_as_the_flag_takes_them() -> None:
    priced = dataclasses.replace(SCRIPT, usd_per_hour={"NVIDIA A10G": 1.2, "cpu": 0.25})
    flat = " ".join(build_parser(priced).format_help().split())
    assert "(default: NVIDIA A10G=1.2,cpu=0.25)" in flat
    assert parse(SCRIPT, ["--usd-per-hour", "NVIDIA A10G=1.2, cpu=0.25"]) == priced


def test_help_names_objects_by_their_class() -> None:
    help = build_parser(dataclasses.replace(SCRIPT, scheduler=FIFOScheduler())).format_help()
    assert "(default: FIFOScheduler)" in help


def test_run_declares_a_sweep_without_a_script() -> None:
    argv = ["pkg.tasks.mine:build", "--space", "lr=uniform:0:1", "--num-trials", "8", "--confirm-top-k", "2"]
    sweep = parse_run(argv)
    expected = Sweep(
        name="mine",
        task="pkg.tasks.mine:build",
        space={"lr": uniform(0, 1)},
        num_trials=8,
        confirm=Confirm(top_k=2),
    )
    assert sweep == expected
    assert parse_run([*argv[1:], argv[0]]) == expected


def test_run_takes_steps_instead_of_the_default_epochs() -> None:
    sweep = parse_run(["tasks:build", "--max-steps", "50"])
    assert (sweep.max_epochs, sweep.max_steps) == (None, 50)


@pytest.mark.parametrize(
    ("task", "name"),
    [("tasks:build", "tasks"), ("a.b.c:make", "c"), ("some/where/my_task.py:build", "my_task"), ("./x.py:f", "x")],
)
def test_run_names_the_sweep_after_the_task(task: str, name: str) -> None:
    assert parse_run([task]).name == name
    assert parse_run([task, "--name", "given"]).name == "given"
