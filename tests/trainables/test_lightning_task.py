"""Lightning modules as tasks: trained by our loop as Lightning would, and refused in one line where it could not."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning_tasks import ByStep, Collecting, Net, OneCycle, PartlyFrozen, Reconstructs
from torch.utils.data import DataLoader, default_collate

from trainables.adapters.lightning_steps import metric_name
from trainables.build import build_observed, make_evaluator
from trainables.isolation import isolated
from trainables.ladder import LADDER
from trainables.loading import TaskError, build_task, find_task
from trainables.pickled import pickle_task, write_task
from trainables.report import TrialReport
from trainables.spec import Budget, TrialSpec
from trainables.trial import Trial, run_trial

FILE = Path(__file__).parent / "lightning_tasks.py"
CPU = torch.device("cpu")
FP32 = LADDER["fp32"]


def spec(name: str = "Net", precision: str = "fp32", **fields: object) -> TrialSpec:
    known = {"config": {}, "budget": Budget(max_epochs=2), **fields}
    return TrialSpec("t", find_task(f"{FILE}:{name}"), known.pop("config"), precision, 3, **known)


def end_of(*args: object, **fields: object) -> TrialReport:
    *_, end = run_trial(spec(*args, **fields))
    assert "\n" not in str(end.status_reason)
    return end


def test_a_module_s_own_hyperparameters_optimizer_schedule_and_metrics_hold() -> None:
    first, end = run_trial(spec(config={"hidden": 8, "lr": 0.1}, examples_of="val_accuracy"))
    assert (end.status, end.step, end.effective_precision) == ("completed", 10, "fp32")
    assert [report.learning_rate for report in (first, end)] == [0.1, 0.05]
    assert list(end.metrics) == [*("val_loss", "val_right", "val_accuracy", "val_largest", "val_batches_f1", "val_f1")]
    assert end.metrics["val_accuracy"] == pytest.approx(end.metrics["val_right"])
    assert end.metrics["val_largest"] == 24
    assert end.samples_per_s == pytest.approx(10 * 16 / end.train_s)
    widths = [end_of(config={"hidden": hidden}).step_flops for hidden in (8, 16)]
    assert widths[1] == 2 * widths[0]


@pytest.mark.parametrize("precision", ["bf16-mixed", "fp16-mixed", "bf16-true"])
def test_it_trains_in_every_precision(precision: str) -> None:
    end = end_of(precision=precision)
    assert (end.status, end.effective_precision) == ("completed", precision)
    assert end.metrics["val_loss"] == pytest.approx(end_of().metrics["val_loss"], rel=0.02)


@pytest.mark.parametrize("kind", [Net, ByStep, Reconstructs, PartlyFrozen, OneCycle, Collecting])
def test_weights_and_metrics_are_those_of_a_trainer(kind: type, tmp_path: Path) -> None:
    """The same batches in the same order, from the same weights, by Lightning itself."""
    with isolated(FP32, 3, 1):
        loop, _ = build_observed(spec(kind.__name__, budget=Budget(max_steps=15)), FP32, CPU)
        theirs = copy.deepcopy(loop.model)
        theirs._trainer, theirs.seen, theirs.validated = None, [], []
        loop.model.seen.clear()
        order = torch.cat([loop.data.order(epoch) for epoch in range(3)])
        loop.train(15)
        values, _ = make_evaluator(loop).evaluate()
    data = loop.task.train_set
    batches = [[data[index] for index in part.tolist()] for part in order.split(16)]
    epochs = iter([batches[:5], batches[5:10], batches[10:]])
    theirs.train_dataloader = lambda: DataLoader(next(epochs), batch_size=None, collate_fn=default_collate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            default_root_dir=tmp_path,
        )
        trainer.fit(theirs)
    for name, value in loop.model.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-5, atol=1e-6)
    logged = {f"val_{metric_name(name)}": float(each) for name, each in trainer.callback_metrics.items()}
    logged = {name: value for name, value in logged.items() if "train" not in name}
    assert values == pytest.approx(logged, rel=1e-5)
    assert loop.model.seen == theirs.seen
    assert loop.model.validated == theirs.validated[-1:] == [(2, 15)]


def test_steps_and_epochs_count_where_no_run_ends_too() -> None:
    with isolated(FP32, 3, 1):
        loop, _ = build_observed(spec("ByStep"), FP32, CPU, num_steps=False)
        rate = loop.optimizer.param_groups[0]["lr"]
        loop.train(7)
    assert loop.model.seen[-3:] == [(0, 4, 4), (1, 5, 0), (1, 6, 1)]
    assert loop.optimizer.param_groups[0]["lr"] == rate


def test_a_metric_of_the_training_begins_anew_in_each_epoch() -> None:
    with isolated(FP32, 3, 1):
        loop, _ = build_observed(spec("Collecting", budget=Budget(max_epochs=9)), FP32, CPU)
        loop.train(17)
    assert [len(part) for part in loop.model.trained.preds] == [16, 16]


def test_parts_in_evaluation_are_told_of_and_stay_so() -> None:
    with isolated(FP32, 3, 1):
        loop, _ = build_observed(spec("PartlyFrozen"), FP32, CPU)
        assert loop.remarks == ("of the module, 4 parts are in evaluation mode, and stay so in training",)
        for _ in range(2):
            loop.train(1)
            make_evaluator(loop).evaluate()
    assert loop.model.net[0][1].num_batches_tracked == 0


@pytest.mark.parametrize(("cpus", "num_workers"), [(1, 0), (2, 1), (3, 2), (9, 2)])
def test_a_loader_s_workers_are_taken_as_far_as_a_trial_has_cpus_for_them(cpus: int, num_workers: int) -> None:
    with isolated(FP32, 3, cpus):
        task = build_task(spec("Fetched").task, {})
    says = f"train_dataloader asks for 2 workers, of which a trial has CPUs for {num_workers}; give --cpus-per-trial 3"
    assert task.num_workers == num_workers
    assert [says in remark for remark in task.remarks] == [True] * (num_workers < 2)


def test_a_trial_goes_on_with_its_schedule_where_it_stood(tmp_path: Path) -> None:
    asked = spec("ByStep", budget=Budget(max_steps=12, report_every_steps=4))
    whole = list(run_trial(asked))
    stopped = Trial(asked)
    running = stopped.reports()
    next(running)
    state = copy.deepcopy(stopped.state_dict())
    running.close()
    going_on = Trial(asked)
    going_on.take_up(state)
    rest = list(going_on.reports())
    kept = [(r.step, r.learning_rate, r.train_loss, r.metrics, r.data_digest) for r in whole[1:]]
    assert [(r.step, r.learning_rate, r.train_loss, r.metrics, r.data_digest) for r in rest] == kept
    assert len({rate for _, rate, *_ in kept}) == 2


def test_without_an_optimizer_of_its_own_ours_takes_the_hyperparameters() -> None:
    asked = {"learning_rate": 0.25, "optimizer": "sgd", "batch_size": 40, "warmup_frac": 0.5}
    end = end_of("Plain", config=asked)
    assert (end.status, end.step, end.learning_rate) == ("completed", 4, 0.25)
    assert list(end.metrics) == ["val_loss"]


def test_a_function_may_give_a_module_with_its_data_module() -> None:
    end = end_of("with_data_module", config={"learning_rate": 0.1})
    assert (end.status, end.step, end.learning_rate) == ("completed", 8, 0.1)


def test_a_module_finds_what_is_known_where_it_looks_for_its_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of("asking").status == "completed"
    assert "fit" in capsys.readouterr().out


def test_a_class_that_was_pickled_is_a_task(tmp_path: Path) -> None:
    source, content = pickle_task(Net)
    write_task(content, tmp_path)
    made = build_task(type(source)(**{**vars(source), "pickled": str(tmp_path / "task.pkl")}), {"hidden": 3})
    assert made.model.net[0].out_features == 3


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("Net", {"hiden": 8}, "Net.__init__ must name every hyperparameter that the loop does not read, got hiden"),
        ("Net", {"learning_rate": 0.1}, "must name the hyperparameters of its own configure_optimizers, got learning"),
        ("Net", {"lr_schedule": "cosine"}, "its own configure_optimizers, got lr_schedule; rename"),
        ("Manual", {}, "Manual must have automatic_optimization, got False; train by a function of your own"),
        ("TwoOptimizers", {}, "configure_optimizers must return one optimizer, got 2; train by a function"),
        ("OnPlateau", {}, "must return schedules of the step alone, got ReduceLROnPlateau"),
        ("Unscheduled", {}, "configure_optimizers must return schedules that have step(), got NoneType; correct it"),
        ("with_changed_batches", {}, "Augmented must not have methods that only a Trainer calls, got on_after_batch_"),
        ("Hooked", {}, "Hooked must not have methods that only a Trainer calls, got on_train_batch_end; leave it out"),
        ("Transferring", {}, "methods that only a Trainer calls, got on_after_batch_transfer"),
        ("Untrained", {}, "Untrained must define training_step, got none"),
        ("Dataless", {}, "train_dataloader must return a data loader, got MisconfigurationException"),
        ("Streamed", {}, "train_dataloader must load a data set with len() and [], got ChainDataset; give it these"),
        ("Sampled", {}, "must leave the order to the loop, which shuffles by the seed, got WeightedRandomSampler"),
    ],
)
def test_what_only_a_trainer_could_serve_is_refused(name: str, config: dict, says: str) -> None:
    with pytest.raises(TaskError) as error, isolated(FP32, 3, 1):
        build_observed(spec(name, config=config), FP32, CPU)
    assert str(error.value).startswith("task: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("NeedsTrainer", {}, "self.trainer.num_nodes must not be needed"),
        ("Lossless", {}, "validation_step must log val_loss or return the loss, got neither"),
        ("Wordless", {}, "training_step must return the loss, or a dict with loss, got NoneType"),
        ("Net", {"compile": True}, "the task calls its model itself; leave compile off"),
    ],
)
def test_what_shows_only_in_a_step_is_the_trial_s_reason(name: str, fields: dict, says: str) -> None:
    end = end_of(name, **fields)
    assert (end.status, says in str(end.status_reason)) == ("errored", True), end.status_reason


@pytest.mark.parametrize(
    ("logged", "name"),
    [
        ("val_acc", "acc"),
        ("val/acc", "acc"),
        ("valid.acc", "acc"),
        ("acc@5", "acc_5"),
        ("value", "value"),
        ("val_", "val_"),
    ],
)
def test_names_of_metrics(logged: str, name: str) -> None:
    assert metric_name(logged) == name
