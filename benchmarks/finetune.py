"""Fine-tuning a pretrained model on labelled texts: our loop, one written by hand, and Hugging Face's Trainer.

    python -m benchmarks.finetune --model FOLDER --train-file FILE --val-file FILE [--steps 27] [--rounds 7]
    python -m benchmarks.finetune ... --rounds 0 --accuracy-seeds 3

One process, in turns, in FP32 and in BF16 mixed. Everyone trains the same model on the same tokens in batches of 32
that are padded to their longest text, with fused AdamW at a constant rate and gradients clipped to norm 1, by
PyTorch's default kernels; a further row is ours by the kernel route that the probe finds. The Trainer, and a second
loop by hand, compute attention as Transformers loads the model, which the task may have changed. In turns of some steps
all train on the same batches, and ours and the one by hand must end with the same weights. With ``--accuracy-seeds``
each trains whole epochs, the Trainer grouping by length itself and once more on our batches, and the accuracies, all
taken in FP32, are compared.

It needs ``pip install -e ".[bench]"``. Targets: at most 1.03 of by hand, at most 1.0 of the Trainer.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.finetuners import CPU, MAX_NORM, RATE, ByHand, ByTrainer, Contestant, Ours, make
from benchmarks.timing import in_turns, ratio, show, spread
from trainables.data import validation_batches
from trainables.loading import find_task
from trainables.probe import probe
from trainables.routes import DEFAULT
from trainables.spec import Budget, TrialSpec

TASK = "trainables.tasks.text_classification:build"
PRECISIONS = ("fp32", "bf16-mixed")
OURS, BY_HAND, TRAINER = "ampsweep", "by hand", "transformers' Trainer"
FUSED, OURS_TO_TRAINER = "by hand, attention as loaded", "the Trainer, on our batches"
WARM_UP = 3
"""Steps that are not timed, at the beginning of each turn."""

Makers = Mapping[str, Callable[[TrialSpec], Contestant]]


def main(argv: Sequence[str] | None = None) -> None:
    """Times all contestants in turns, then compares what whole epochs come to; prints a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--train-file", "--val-file"):
        parser.add_argument(name, required=True)
    parser.add_argument("--steps", type=int, default=27, help="of a turn")
    parser.add_argument("--rounds", type=int, default=7, help="0 times no turns")
    parser.add_argument("--accuracy-seeds", type=int, default=0, help="whole epochs of each contestant")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    quiet_transformers()
    for precision in arguments.precisions.split(","):
        spec = make_spec(arguments, precision)
        makers = make_makers(spec)
        if arguments.rounds:
            check_equal_work(spec, makers)
            compare_speed(spec, {**makers, **by_fastest_route(spec)}, arguments.steps, arguments.rounds)
        if arguments.accuracy_seeds:
            compare_accuracy(spec, arguments.accuracy_seeds)


def quiet_transformers() -> None:
    """No logs and no bars of Transformers'."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def make_spec(arguments: argparse.Namespace, precision: str) -> TrialSpec:
    """A trial of what all train."""
    config: dict[str, Any] = {
        "model": arguments.model,
        "train_file": arguments.train_file,
        "val_file": arguments.val_file,
        "learning_rate": RATE,
        "weight_decay": 0.0,
        "batch_size": arguments.batch_size,
        "max_grad_norm": MAX_NORM,
    }
    return TrialSpec("finetune", find_task(TASK), config, precision, 0, Budget(max_epochs=1), arguments.threads)


def make_makers(spec: TrialSpec, groups: bool = False) -> Makers:
    """How each contestant is made, by name.

    Args:
        spec: of a trial.
        groups: whether the Trainer groups texts by length itself.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(spec.config["model"])
    return {
        BY_HAND: lambda spec: ByHand(spec, tokenizer.pad_token_id),
        OURS: Ours,
        FUSED: lambda spec: ByHand(spec, tokenizer.pad_token_id, fuses=True),
        TRAINER: lambda spec: ByTrainer(spec, tokenizer, groups),
    }


def by_fastest_route(spec: TrialSpec) -> Makers:
    """Ours by the kernel route that the probe finds, where that is not the default one."""
    route = next(probe(spec, [spec.precision])).route
    return {} if route in (None, DEFAULT) else {f"{OURS} by {route}": lambda spec: Ours(spec, str(route))}


def check_equal_work(spec: TrialSpec, makers: Makers) -> None:
    """Ends the benchmark unless ours and the one by hand train the same weights in a few steps."""
    models = []
    for name in (BY_HAND, OURS):
        contestant = makers[name](spec)
        contestant.train(3)
        models.append(contestant.model.state_dict())
    for name, weights in models[0].items():
        if not torch.equal(weights, models[1][name]):
            raise SystemExit(f"not the same work in {spec.precision}: {name} differs after 3 steps")


def compare_speed(spec: TrialSpec, makers: Makers, num_steps: int, num_rounds: int) -> None:
    """Times all in turns and prints a table."""
    contestants = {name: make_one(spec) for name, make_one in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for name in in_turns(list(contestants), num_rounds):
        times[name].append(1e3 * contestants[name].train(num_steps, WARM_UP) / num_steps)
    against = {name: f"{ratio(times[OURS], ms):.3f}" for name, ms in times.items()}
    rows = {name: [*spread(ms), f"{ratio(ms, times[BY_HAND]):.3f}", against[name]] for name, ms in times.items()}
    title = f"{spec.precision}, {num_rounds} turns of {num_steps} steps"
    show(title, ["ms a step", "min", "max", "it / by hand", "ampsweep / it"], rows)


def compare_accuracy(spec: TrialSpec, num_seeds: int) -> None:
    """Trains an epoch of each with every seed, and prints a table of accuracies and of seconds.

    The second loop by hand, of which speed alone is asked, is left out.
    """
    makers = {**make_makers(spec, groups=True), OURS_TO_TRAINER: make_makers(spec)[TRAINER]}
    names = [name for name in makers if name != FUSED]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    accuracies: dict[str, list[float]] = {name: [] for name in names}
    for turn, name in enumerate(in_turns(names, num_seeds)):
        own = replace(spec, seed=turn // len(names))
        task, contestant = make(own), makers[name](own)
        num_steps = len(task.train_set) // spec.config["batch_size"]  # type: ignore[arg-type]
        seconds[name].append(contestant.train(num_steps))
        accuracies[name].append(accuracy(contestant.model, task))
    rows = {}
    for name in names:
        differences = [a - b for a, b in zip(accuracies[name], accuracies[BY_HAND], strict=True)]
        noise = statistics.stdev(differences) if num_seeds > 1 else float("nan")
        shown = [
            f"{statistics.mean(differences):+.4f}",
            f"{noise:.4f}",
            f"{ratio(seconds[name], seconds[BY_HAND]):.3f}",
        ]
        rows[name] = [*spread(accuracies[name], 4), *shown[:2], *spread(seconds[name]), shown[2]]
    columns = ["accuracy", "min", "max", "it - by hand", "its sd", "epoch s", "min", "max", "it / by hand"]
    show(f"{spec.precision}, an epoch with each of {num_seeds} seeds", columns, rows)


def accuracy(model: torch.nn.Module, task: Any) -> float:
    """The share of validation texts that a model labels rightly, in FP32."""
    model.eval()
    right = total = 0
    with torch.no_grad():
        for batch in validation_batches(task, 64, CPU, None)():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            right += int((logits.argmax(-1) == batch["labels"]).sum())
            total += len(batch["labels"])
    return right / total


if __name__ == "__main__":
    main()
