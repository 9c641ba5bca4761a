"""The task that classifies texts: its batches, its model, its metrics, and a trial of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from trainables.data import TrainingData
from trainables.evaluation import Evaluator
from trainables.isolation import seed_everything, weights_digest
from trainables.language.models import load_tokenizer
from trainables.loading import TaskError, build_task, find_task
from trainables.loop import Loop
from trainables.spec import Budget, TrialSpec
from trainables.task import Task
from trainables.tasks.text_classification import build
from trainables.trial import run_trial

SOURCE = find_task("trainables.tasks.text_classification:build")


@pytest.fixture
def config(text_files: Path, encoder_folder: Path) -> dict[str, Any]:
    files = {name: str(text_files / file) for name, file in (("train_file", "train.tsv"), ("val_file", "dev.tsv"))}
    return {"model": str(encoder_folder), "learning_rate": 3e-3, "batch_size": 16, **files}


def seeded(config: dict[str, Any], seed: int = 0) -> Task:
    seed_everything(seed)
    return build(config)


def longest(task: Task) -> int:
    assert task.lengths is not None
    return max(task.lengths)


def test_batches_are_what_the_tokenizer_pads(config: dict[str, Any], encoder_folder: Path) -> None:
    task = seeded(config)
    lines = [line.split("\t") for line in Path(config["train_file"]).read_text().splitlines()]
    picked = [63, 0, 7, 8]
    texts = [lines[index][0] for index in picked]
    wanted = load_tokenizer(str(encoder_folder))(texts, padding=True, return_tensors="pt")
    (batch,) = DataLoader(task.train_set, batch_sampler=[picked], collate_fn=task.collate)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(batch["input_ids"], wanted["input_ids"])
    assert torch.equal(batch["attention_mask"], wanted["attention_mask"])
    assert batch["labels"].tolist() == [int(lines[index][1]) for index in picked]
    assert task.collate is not None
    one_by_one = task.collate([task.train_set[index] for index in picked])
    of_a_subset = task.collate(Subset(task.train_set, picked).__getitems__([0, 1, 2, 3]))
    for name in batch:
        assert torch.equal(batch[name], one_by_one[name])
        assert torch.equal(batch[name], of_a_subset[name])


def test_lengths_group_batches_and_pad_little(config: dict[str, Any]) -> None:
    task = seeded(config)
    data = TrainingData(task, 16, 1, 0, torch.device("cpu"), None)
    in_order = DataLoader(task.train_set, batch_size=16, collate_fn=task.collate)
    batches = data.batches()
    padded = [int((next(batches)[0]["attention_mask"] == 0).sum()) for _ in range(4)]
    apart = [int((next(batches)["attention_mask"] == 0).sum()) for batches in [iter(in_order)] * 4]
    assert sum(padded) < sum(apart) / 2
    seen = [label for batch in data.first_parts(4) for label in batch["labels"].tolist()]
    assert sorted(seen) == [0] * 32 + [1] * 32
    widths = [
        batch["input_ids"].shape[1]
        for batch in DataLoader(task.val_set, batch_sampler=[[0, 1], [14, 15]], collate_fn=task.collate)
    ]
    assert widths[0] > widths[1]  # the longest first


def test_the_model_knows_its_labels_and_its_head_is_the_seed_s(config: dict[str, Any], text_files: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        text = (text_files / name).read_text()
        (text_files / name).write_text(text.replace("\t0", "\tno").replace("\t1", "\tah, yes"))
    (text_files / "dev.tsv").write_text("good\tno\n")  # not all labels
    task, again, other = seeded(config), seeded(config), seeded(config, 1)
    assert task.model.config.id2label == {0: "ah, yes", 1: "no"}  # type: ignore[union-attr]
    assert task.model.config.label2id == {"ah, yes": 0, "no": 1}  # type: ignore[union-attr]
    assert task.val_set[0]["labels"].tolist() == [1]
    assert weights_digest(task.model) == weights_digest(again.model) != weights_digest(other.model)
    assert {parameter.dtype for parameter in task.model.parameters()} == {torch.float32}


def test_texts_are_cut_to_what_the_model_takes(config: dict[str, Any], text_files: Path) -> None:
    with (text_files / "train.tsv").open("a") as file:
        file.write("very " * 30 + "good\t1\n")
    task = seeded(config)
    assert longest(task) == 24  # its positions, which its tokenizer does not know
    assert task.remarks[1].endswith("train.tsv: 1 of 65 texts were truncated to 24 tokens")
    assert longest(seeded(config | {"max_length": 6})) == 6
    assert longest(seeded(config | {"max_length": 512})) == 24
    with pytest.raises(
        TaskError, match=r"^max_length: must be at least 3, since the tokenizer adds 2, got 2; raise it"
    ):
        seeded(config | {"max_length": 2})


def test_attention_with_dropout_is_not_fused_on_a_cpu(
    config: dict[str, Any], encoder_folder: Path, tmp_path: Path
) -> None:
    """Fused, this one would not be effective in BF16."""
    assert seeded(config).model.config._attn_implementation == "eager"  # type: ignore[union-attr]
    for file in encoder_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"attention_probs_dropout_prob": 0.0}))
    task = seeded(config | {"model": str(tmp_path)})
    assert task.model.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    assert len(task.remarks) == 2


def copied(folder: Path, to: Path, **changes: Any) -> str:
    """A model's folder with another configuration."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    written = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(written | changes))
    return str(to)


def test_a_head_that_knows_the_labels_keeps_their_order(
    config: dict[str, Any], text_files: Path, encoder_folder: Path
) -> None:
    for name in ("train.tsv", "dev.tsv"):
        text = (text_files / name).read_text()
        (text_files / name).write_text(text.replace("\t0", "\tnegative").replace("\t1", "\tpositive"))
    trained = seeded(config)
    trained.model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}  # type: ignore[union-attr]
    trained.model.save_pretrained(text_files / "trained")  # type: ignore[operator]
    load_tokenizer(str(encoder_folder)).save_pretrained(text_files / "trained")
    task = seeded(config | {"model": str(text_files / "trained")}, 1)
    assert weights_digest(task.model) == weights_digest(trained.model)
    assert task.model.config.id2label == {0: "positive", 1: "negative"}  # type: ignore[union-attr]
    for data, before in ((task.train_set, trained.train_set), (task.val_set, trained.val_set)):
        assert all(int(data[row]["labels"]) == 1 - int(before[row]["labels"]) for row in range(16))
    other = seeded(config | {"model": copied(text_files / "trained", text_files / "other", id2label={0: "x", 1: "y"})})
    assert other.model.config.id2label == {0: "negative", 1: "positive"}  # type: ignore[union-attr]


@pytest.mark.parametrize("configured", [None, 9])
def test_what_fills_batches_up_changes_no_logits_of_a_decoder(
    config: dict[str, Any], encoder_folder: Path, tmp_path: Path, configured: int | None
) -> None:
    """Whatever its configuration calls padding, it is the tokenizer's."""
    import transformers

    sizes = {"vocab_size": 12, "n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.0}
    made = transformers.GPT2Model(transformers.GPT2Config(**sizes, pad_token_id=configured))
    made.save_pretrained(tmp_path / "gpt2")
    load_tokenizer(str(encoder_folder)).save_pretrained(tmp_path / "gpt2")
    task = seeded(config | {"model": str(tmp_path / "gpt2")})
    model = task.model.eval()

    def logits(rows: list[int]) -> torch.Tensor:
        batch = task.train_set.__getitems__(rows)  # type: ignore[attr-defined]
        with torch.no_grad():
            return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # type: ignore[no-any-return]

    torch.testing.assert_close(logits([0, 4]), torch.cat([logits([0]), logits([4])]))


def test_padding_that_the_model_does_not_know_is_replaced(
    config: dict[str, Any], encoder_folder: Path, tmp_path: Path
) -> None:
    place = copied(encoder_folder, tmp_path / "padded")
    tokenizer = load_tokenizer(place)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(place)
    assert load_tokenizer(place).pad_token_id == 12
    task = seeded(config | {"model": place})
    batch = task.train_set.__getitems__([0, 4])  # type: ignore[attr-defined]
    assert int(batch["input_ids"].max()) < 12
    assert torch.isfinite(task.model(**batch).loss)


def test_metrics_are_accuracy_and_macro_f1(config: dict[str, Any], make_loop: Callable[..., Loop]) -> None:
    task = seeded(config)
    loop = make_loop(task, batch_size=4)
    values, examples = Evaluator(loop).evaluate()
    assert set(values) == {"val_accuracy", "val_macro_f1", "val_loss"}
    with torch.no_grad():
        batch = task.val_set.__getitems__(list(range(16)))  # type: ignore[attr-defined]
        predicted = task.model.eval()(**batch).logits.argmax(1).numpy()
    labels = batch["labels"].numpy()
    hits = [(np.sum((predicted == c) & (labels == c)), np.sum(predicted == c) + np.sum(labels == c)) for c in (0, 1)]
    assert values["val_macro_f1"] == pytest.approx(np.mean([2 * hit / total for hit, total in hits]))
    assert list(examples) == ["val_accuracy"]
    assert examples["val_accuracy"].tolist() == (predicted == labels).astype(float).tolist()


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({}, "fp32"),
        ({}, "bf16-mixed"),
        ({"lora_rank": 2, "gradient_checkpointing": True, "learning_rate": 3e-2}, "fp32"),
    ],
)
def test_a_trial_learns(config: dict[str, Any], changes: dict[str, Any], precision: str) -> None:
    spec = TrialSpec("t", SOURCE, config | changes, precision, 0, Budget(max_steps=24))
    *_, last = run_trial(spec)
    assert (last.status, last.status_reason, last.effective_precision) == ("completed", None, precision)
    assert last.metrics["val_accuracy"] == 1


def test_what_cannot_be_built_comes_out_as_the_task_says_it(
    config: dict[str, Any], text_files: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    def refused(told: str, **changes: Any) -> None:
        with pytest.raises(TaskError) as raised:
            build_task(SOURCE, config | changes)
        assert str(raised.value).startswith(told)

    refused("model: must be given, got nothing; give the pretrained model: a local folder", model=None)
    refused("lora_rank: must be a whole number of at least 0, got 1.5", lora_rank=1.5)
    refused("train_file: must be an existing file, got 'none.tsv'; check the path", train_file="none.tsv")
    refused("text_column: must be a column of ", text_column="body")
    (text_files / "dev.tsv").write_text("good\t1\nbad\t2\n")
    refused(f"val_file: line 2 of {text_files}/dev.tsv must have a label that training has (0, 1), got '2'; correct")
    (text_files / "dev.tsv").write_text("good\t1\n")
    small = tmp_path / "small"
    small.mkdir()
    for file in encoder_folder.iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    written = json.loads((small / "tokenizer.json").read_text())
    written["model"]["vocab"]["the"] = 400
    (small / "tokenizer.json").write_text(json.dumps(written))
    refused("model: must know all of its tokenizer's tokens, but has 12 and not, got token 400 of ", model=str(small))
