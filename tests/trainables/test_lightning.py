"""The callback on real trainers: what it observes, counts and writes, and that training never notices."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import pytorch_lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import WandbLogger
from lightning_fits import Classifier, OlderClassifier, Witness, fit, fp16_on_cpu, logged
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from trainables.adapters.lightning import AmpWandbCallback, compute_effective_precision
from trainables.adapters.lightning_observe import BatchWatch
from trainables.adapters.lightning_scaler import SkippedSteps, loss_scale
from trainables.products import _FLOP_FORMULAS

SAID_ONCE = "this is said once"


def fused_adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, fused=True)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if SAID_ONCE in record.getMessage()]


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


# What is observed


@pytest.mark.parametrize(
    ("precision", "name", "inside"),
    [
        ("32-true", "fp32", torch.float32),
        ("16-mixed", "bf16-mixed", torch.bfloat16),  # as Lightning makes it on a CPU
        ("bf16-mixed", "bf16-mixed", torch.bfloat16),
        ("bf16-true", "bf16-true", torch.bfloat16),
        ("16-true", "fp16-true", torch.float16),
        ("64-true", "fp64", torch.float64),
    ],
)
def test_training_learns_in_the_precision_that_is_observed(precision: Any, name: str, inside: torch.dtype) -> None:
    model, callback = Classifier(optimizer=torch.optim.SGD), AmpWandbCallback()
    trainer = fit(model, callback, precision=precision, max_steps=40)
    assert (callback.effective_precision, callback.observed) == (name, True)
    assert compute_effective_precision(trainer) == name
    assert model.dtypes == {inside}
    assert sum(model.losses[-8:]) < sum(model.losses[:8])


@pytest.mark.parametrize(
    ("package", "kind"), [(lightning, Classifier), (pytorch_lightning, OlderClassifier)], ids=["new", "old"]
)
def test_both_packages_trainers_run_it(package: Any, kind: Any) -> None:
    callback = AmpWandbCallback()
    fit(kind({1}, fused_adamw), callback, package=package, plugins=[fp16_on_cpu(package)])
    assert (callback.effective_precision, callback.skipped_steps) == ("fp16-mixed", 1)


class WithoutAutocast(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (lambda: WithoutAutocast(8, 2), "fp32"),
        # Forward and the weights' gradients of both layers, and the inputs' gradient of the second alone.
        (lambda: nn.Sequential(nn.Linear(8, 8), WithoutAutocast(8, 8)), "60% float32, 40% bfloat16"),
    ],
)
def test_what_the_step_ran_in_counts_and_not_what_was_asked(net: Callable[[], nn.Module], name: str) -> None:
    callback = AmpWandbCallback()
    trainer = fit(Classifier(net=net()), callback, precision="bf16-mixed")
    assert compute_effective_precision(trainer) == "bf16-mixed"
    assert callback.effective_precision == name


class ProductsInBf16(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        big = torch.ones(128, 128, dtype=torch.bfloat16)
        _ = big @ big
        return loss


def test_an_optimizers_own_products_are_not_the_models() -> None:
    callback = AmpWandbCallback()
    fit(Classifier(optimizer=ProductsInBf16), callback)
    assert callback.effective_precision == "fp32"


class Scale(nn.Module):
    """No matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight).unflatten(1, (2, 4)).sum(2)


@pytest.mark.parametrize("net", [Scale, lambda: torch.compile(nn.Linear(8, 2), backend="eager")])
def test_what_cannot_be_observed_is_what_the_trainer_asks_for(net: Callable[[], nn.Module]) -> None:
    callback = AmpWandbCallback()
    fit(Classifier(net=net()), callback, precision="bf16-mixed", max_steps=2)
    assert (callback.effective_precision, callback.observed) == ("bf16-mixed", False)


def test_each_fit_is_observed_anew() -> None:
    callback, model = AmpWandbCallback(), Classifier()
    for precision, name in (("bf16-mixed", "bf16-mixed"), ("32-true", "fp32")):
        fit(model, callback, precision=precision, max_steps=2)
        assert callback.effective_precision == name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_without_it_bit_for_bit(precision: Any) -> None:
    with_it, without = Classifier(), Classifier()
    fit(with_it, AmpWandbCallback(every_n_steps=1), precision=precision)
    after = torch.get_rng_state()
    fit(without, precision=precision)
    assert all(torch.equal(a, b) for a, b in zip(weights(with_it), weights(without), strict=True))
    assert torch.equal(torch.get_rng_state(), after)
    assert with_it.losses == without.losses


class Fails(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        raise RuntimeError("the model's own")


class SkipsEpochs(Classifier):
    """Skips the first epoch at its first batch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 0 else None


def test_nothing_stays_in_force_after_an_exception() -> None:
    callback = AmpWandbCallback()
    with pytest.raises(RuntimeError, match="the model's own"):
        fit(Fails(), callback)
    assert _get_current_dispatch_mode_stack() == []
    assert callback.effective_precision is None


def test_a_skipped_epoch_is_not_watched() -> None:
    class Between(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            assert _get_current_dispatch_mode_stack() == []

    callback, model = AmpWandbCallback(), SkipsEpochs()
    fit(model, callback, Between(), max_epochs=2, max_steps=-1)
    assert model.calls == 8
    assert (callback.effective_precision, callback.observed) == ("fp32", True)


@pytest.mark.parametrize(("everywhere", "name"), [(False, "bf16-mixed"), (True, "unknown")])
def test_an_observation_that_fails_harms_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, everywhere: bool, name: str
) -> None:
    """Where the watch fails, what is asked for is known; where every count fails, nothing is."""
    formula = _FLOP_FORMULAS["aten.addmm"]

    def fail(bias: Any, inputs: torch.Tensor, *others: Any, **kwargs: Any) -> Any:
        if everywhere or len(inputs) == 8:
            raise ZeroDivisionError("planted")
        return formula(bias, inputs, *others, **kwargs)

    monkeypatch.setitem(_FLOP_FORMULAS, "aten.addmm", fail)
    callback, model = AmpWandbCallback(), Classifier()
    fit(model, callback, precision="bf16-mixed")
    assert model.calls == 8
    assert (callback.effective_precision, callback.observed) == (name, False)
    assert len(said(caplog)) == 1
    assert "planted" in said(caplog)[0]


# What the scaler did


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, fused_adamw])
def test_skipped_steps_are_counted_with_every_optimizer(optimizer: Any) -> None:
    callback, witness, model = AmpWandbCallback(), Witness(), Classifier({0, 3, 4}, optimizer)
    fit(model, callback, witness, plugins=[fp16_on_cpu(init_scale=1024.0)])
    sums = [row[2] for row in witness.rows]
    stood = [i for i in range(1, 8) if sums[i] == sums[i - 1]]
    assert stood == [3, 4]  # with the first, of which there is no before: what the weights say
    assert callback.skipped_steps == 3
    assert [row[1] for row in witness.rows] == [512.0] * 3 + [256.0] + [128.0] * 4


def test_accumulated_batches_make_one_step() -> None:
    """16 batches, 8 steps; the overflows of batches 2 and 3 are one of a step, that of batch 9 another."""
    callback, model = AmpWandbCallback(), Classifier({2, 3, 9}, fused_adamw)
    trainer = fit(model, callback, plugins=[fp16_on_cpu()], accumulate_grad_batches=2)
    assert (model.calls, trainer.global_step, callback.skipped_steps) == (16, 8, 2)
    assert trainer.scaler.get_scale() == 65536.0 / 4


class Twice(Classifier):
    """Two optimizers, stepped by hand; in the batches that overflow, only the second's gradients do."""

    def __init__(self, overflows: set[int], net: nn.Module | None = None) -> None:
        super().__init__(overflows, net=net)
        self.automatic_optimization = False

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        for number, optimizer in enumerate(self.optimizers()):
            optimizer.zero_grad()
            loss = self.net[3 * number](batch[0] if number == 0 else torch.ones(8, 16)).float().square().mean()
            self.manual_backward(loss * float("inf") if number and self.calls in self.overflows else loss)
            optimizer.step()
        self.calls += 1

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), fused_adamw(self.net[3].parameters(), 0.1)]


def test_steps_by_hand_are_counted_one_by_one() -> None:
    callback, model = AmpWandbCallback(), Twice({0, 2})
    trainer = fit(model, callback, plugins=[fp16_on_cpu()])
    assert (model.calls, trainer.global_step) == (4, 8)
    assert callback.skipped_steps == 2
    assert callback.effective_precision == "fp16-mixed"


def test_a_batch_of_two_optimizers_is_observed_whole() -> None:
    """Four products of a size, of which autocast, which a backward by hand runs under too, leaves out one."""
    callback = AmpWandbCallback()
    net = nn.ModuleList([nn.Linear(8, 16), nn.ReLU(), nn.Identity(), WithoutAutocast(16, 8)])
    fit(Twice(set(), net), callback, precision="bf16-mixed")
    assert callback.effective_precision == "75% bfloat16, 25% float32"


class SaysNothing(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if self.calls == 3 else loss


def test_a_step_that_the_model_left_out_was_not_skipped_by_the_scaler() -> None:
    callback, model = AmpWandbCallback(), SaysNothing({1})
    fit(model, callback, plugins=[fp16_on_cpu()])
    assert (model.calls, callback.skipped_steps) == (8, 1)


def test_without_a_scaler_nothing_is_skipped() -> None:
    callback = AmpWandbCallback()
    fit(Classifier({0, 1}), callback, precision="bf16-mixed", max_steps=3)
    assert callback.skipped_steps == 0


class Synchronizations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func._overloadpacket) == "aten._local_scalar_dense"
        return func(*args, **(kwargs or {}))


@given(
    overflows=st.lists(st.booleans(), min_size=1, max_size=12),
    fused=st.booleans(),
    scale=st.sampled_from([2.0**16, 1.0, 2.0**-147]),
    growth_interval=st.integers(1, 3),
)
def test_a_real_scalers_skips_are_counted_whatever_its_scale_does(
    overflows: list[bool], fused: bool, scale: float, growth_interval: int
) -> None:
    """Down to a scale of 0, which cannot fall; counting itself never waits for the device."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
    skipped, applied = SkippedSteps(), 0
    for overflow in overflows:
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (float("inf") if overflow else 1.0)).backward()
        if not fused:
            scaler.unscale_(optimizer)  # as Lightning's plugin does
        with Synchronizations() as seen:
            skipped.begin(scaler, optimizer)
            if fused:
                scaler.step(optimizer)
        assert seen.count == 0
        if not fused:  # which waits by itself
            scaler.step(optimizer)
        scaler.update()
        skipped.end()
        applied = int(optimizer.state[weight].get("step", 0))
    assert skipped.total() == len(overflows) - applied


@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu")])
def test_a_scaler_that_does_not_scale_skips_nothing(scaler: Any) -> None:
    skipped = SkippedSteps()
    skipped.begin(scaler, torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    assert (skipped.total(), loss_scale(scaler)) == (0, 65536.0 if scaler and scaler.is_enabled() else None)


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    first = AmpWandbCallback()
    trainer = fit(Classifier({1, 2}), first, plugins=[fp16_on_cpu(init_scale=64.0)], max_steps=4)
    trainer.save_checkpoint(tmp_path / "at_4.ckpt")
    assert first.state_dict() == {"skipped_steps": 2}
    second, model = AmpWandbCallback(), Classifier({0})
    trainer = fit(model, second, plugins=[fp16_on_cpu()], max_steps=8, ckpt_path=tmp_path / "at_4.ckpt")
    assert (model.calls, trainer.global_step) == (4, 8)
    assert second.skipped_steps == 3
    assert trainer.scaler.get_scale() == 8.0
    assert second.effective_precision == "fp16-mixed"


# What W&B gets


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a real offline W&B run below ``tmp_path``."""
    for name, value in {"MODE": "offline", "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    import wandb

    quiet = wandb.Settings(
        x_disable_stats=True, x_disable_meta=True, disable_git=True, disable_code=True, console="off"
    )
    yield lambda: wandb.init(project="amp", dir=tmp_path, settings=quiet)
    wandb.finish()


@pytest.mark.parametrize("way", ["WandbLogger", "active run"])
def test_what_is_logged_is_what_the_trainer_did(
    offline: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    run = offline()
    witness = Witness()
    logger: Any = WandbLogger(experiment=run) if way == "WandbLogger" else False
    fit(
        Classifier({0, 3, 4}, fused_adamw),
        AmpWandbCallback(every_n_steps=2),
        witness,
        plugins=[fp16_on_cpu()],
        logger=logger,
        max_steps=7,
    )
    run.finish()
    rows = [row for row in logged(tmp_path) if "amp/loss_scale" in row]
    scales = {step: scale for step, scale, _ in witness.rows}
    assert [row["trainer/global_step"] for row in rows] == [2, 4, 6, 7]  # the last at the end of training
    assert [row["amp/loss_scale"] for row in rows] == [scales[step] for step in (2, 4, 6, 7)]
    assert [row["amp/skipped_steps"] for row in rows] == [1, 2, 3, 3]
    assert {row["amp/effective_precision"] for row in rows} == {"fp16-mixed"}
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("precision", "name"), [("32-true", "fp32"), ("bf16-mixed", "bf16-mixed"), ("bf16-true", "bf16-true")]
)
def test_without_a_scaler_there_is_no_loss_scale(
    offline: Callable[..., Any], tmp_path: Path, precision: Any, name: str
) -> None:
    run = offline()
    logger = WandbLogger(experiment=run)
    fit(Classifier(), AmpWandbCallback(), precision=precision, logger=logger, log_every_n_steps=4, max_steps=8)
    run.finish()
    rows = [row for row in logged(tmp_path) if "amp/effective_precision" in row]
    assert [row["trainer/global_step"] for row in rows] == [4, 8]  # the trainer's own interval
    assert {row["amp/effective_precision"] for row in rows} == {name}
    assert {row["amp/skipped_steps"] for row in rows} == {0}
    assert not any("amp/loss_scale" in row for row in rows)


class Recorder:
    """A run that only keeps what it is given; for what needs no file."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, metrics: dict[str, Any]) -> None:
        self.rows.append(metrics)


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    import wandb

    recorder = Recorder()
    monkeypatch.setattr(wandb, "run", recorder)
    return recorder


def test_an_exception_loses_no_count(active: Recorder) -> None:
    class FailsLate(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.calls == 3:
                raise RuntimeError("late")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="late"):
        fit(FailsLate({0, 2}), AmpWandbCallback(), plugins=[fp16_on_cpu()])
    assert [(row["trainer/global_step"], row["amp/skipped_steps"]) for row in active.rows] == [(3, 2)]


@pytest.mark.parametrize(
    ("every", "arguments", "steps"),
    [
        (3, {}, [3, 6, 8]),
        (None, {"log_every_n_steps": 4}, [4, 8]),
        (None, {}, [8]),  # Lightning's own default is 50
        (None, {"log_every_n_steps": 0}, []),
        (2, {"log_every_n_steps": 0}, [2, 4, 6, 8]),
        (2, {"accumulate_grad_batches": 3}, [2, 4, 6, 8]),
    ],
)
def test_rows_come_at_their_interval(
    active: Recorder, every: int | None, arguments: dict[str, Any], steps: list[int]
) -> None:
    fit(Classifier(), AmpWandbCallback(every), **arguments)
    assert [row["trainer/global_step"] for row in active.rows] == steps


def test_an_interval_that_two_optimizers_step_over_still_has_its_rows(active: Recorder) -> None:
    fit(Twice(set()), AmpWandbCallback(every_n_steps=3))
    assert [row["trainer/global_step"] for row in active.rows] == [4, 6, 8]


@pytest.mark.parametrize("interval", [0, -1])
def test_intervals_below_one_are_refused(interval: int) -> None:
    with pytest.raises(ValueError, match="every_n_steps: must be at least 1"):
        AmpWandbCallback(interval)


def test_a_run_that_fails_is_said_once_and_training_goes_on(
    offline: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A real run that has ended refuses rows, through a logger and without one."""
    run = offline()
    run.finish()
    models = [Classifier(), Classifier(), Classifier()]
    fit(models[0])
    for model, logger in ((models[1], WandbLogger(experiment=run)), (models[2], False)):
        caplog.clear()
        import wandb

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wandb, "run", run)
            fit(model, AmpWandbCallback(every_n_steps=1), logger=logger, log_every_n_steps=1)
        assert len(said(caplog)) == 1
        assert "metrics cannot be logged to W&B" in said(caplog)[0]
        assert all(torch.equal(a, b) for a, b in zip(weights(models[0]), weights(model), strict=True))


def test_of_two_loggers_one_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(WandbLogger):
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            raise OSError("planted")

    class Works(WandbLogger):
        rows: list[Any] = []  # noqa: RUF012

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            self.rows.append((step, metrics["amp/effective_precision"]))

    run = Recorder()
    loggers = [Broken(experiment=run), Works(experiment=run)]
    fit(Classifier(), AmpWandbCallback(every_n_steps=4), logger=loggers)
    assert loggers[1].rows == [(4, "fp32"), (8, "fp32")]
    assert len(said(caplog)) == 1


def test_where_wandb_is_missing_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The adapter, imported anew, and the fit run where ``import wandb`` fails."""
    for name in [name for name in sys.modules if name.startswith("trainables.adapters.lightning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError):
        importlib.import_module("wandb")
    callback = importlib.import_module("trainables.adapters.lightning").AmpWandbCallback(every_n_steps=1)
    assert type(callback) is not AmpWandbCallback
    model, plain = Classifier({1}), Classifier({1})
    fit(model, callback, plugins=[fp16_on_cpu()])
    fit(plain, plugins=[fp16_on_cpu()])
    assert (callback.effective_precision, callback.skipped_steps) == ("fp16-mixed", 1)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(plain), strict=True))
    assert len(said(caplog)) == 1
    assert "there is no W&B run" in said(caplog)[0]


def test_a_watch_that_was_not_begun_has_nothing_to_leave() -> None:
    watch = BatchWatch()
    watch.leave()
    watch.begin(torch.device("cpu"))
    assert (watch.is_open, len(_get_current_dispatch_mode_stack())) == (True, 1)
    watch.leave()
    assert (watch.is_open, len(_get_current_dispatch_mode_stack())) == (False, 0)
