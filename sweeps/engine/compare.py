"""``ampsweep compare``: a model against a baseline on test data, paired, with intervals."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeps.engine.parser import Parser, parse_known
from sweeps.engine.readers import read_whole
from sweeps.search.checks import Unfinished, one_of, refuse, text, whole
from trainables.ladder import LADDER

if TYPE_CHECKING:
    import torch

    from analysis.comparison import Measured
    from sweeps.engine.comparison_report import ComparisonReport
    from trainables import comparison
    from trainables.examples import Examples
    from trainables.sides import Side

DEFAULT_SAMPLES = 1000
"""Examples that are drawn where the user names no number; all where there are fewer."""

MOST_ROUNDS = 10_000
LARGEST_SEED = 2**32 - 1

DESCRIPTION = """Compares a model with a baseline on the same test data: loss (and perplexity, over tokens), accuracy or
the task's metrics, samples per second and size, as paired differences and ratios with 95 % intervals. MODEL and
BASELINE are each: a folder that `ampsweep export` wrote; a folder with a Hugging Face model (config.json and weights;
needs transformers); or module:function or path/to/file.py:function that returns a torch.nn.Module, or a Task, whose
model is taken. BASELINE may be `initial`: the exported MODEL as it was before training."""

EPILOG = """Speed is of forward passes in evaluation mode, over batches that lie on the device, in windows that
alternate between the models. Starts no Ray. Exit codes: 0 it ran, 1 memory ran out, 2 bad input."""

DATA_HELP = """module:function or path/to/file.py:function that returns a map-style data set, or a Task, whose
validation set, loss, metrics and collation are taken; or a .npz or .pt file with x (or inputs) and y (or labels,
targets), or with the names that the models' forward takes, such as input_ids and attention_mask, and labels (default:
the validation set of MODEL's task, by which a sweep chose, so that it flatters an exported MODEL a little)"""


def compare(argv: Sequence[str]) -> int:
    """The command: compares and prints.

    Args:
        argv: the arguments, without the command's name.

    Raises:
        SweepError: a flag cannot be used.
        TaskError: a model or the data cannot, or they do not fit each other.
        Unfinished: memory ran out.
        SystemExit: code 0, after ``--help``.
    """
    given = argparse.Namespace(**parse_known(_parser(), argv))
    _check(given)
    from rich.console import Console

    from trainables.memory import is_out_of_memory

    try:
        # What models and data print must not get among the figures.
        with contextlib.redirect_stdout(sys.stderr), Console(stderr=True).status("comparing"):
            report = run(given)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise Unfinished(f"--batch-size: must fit into memory, got {given.batch_size} ({error}); lower it") from error
    if given.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        report.print(Console())
    return 0


def run(given: argparse.Namespace) -> "ComparisonReport":
    """Loads both models and the data, and measures.

    Args:
        given: the flags' values.

    Raises:
        SweepError, TaskError: as of :func:`compare`.
    """
    from analysis.comparison import comparison
    from sweeps.engine.comparison_report import ComparisonReport
    from trainables.candidates import INITIAL, load_candidate, load_initial
    from trainables.comparison import measure
    from trainables.examples import load_examples
    from trainables.isolation import isolated
    from trainables.memory import keep_freed_memory
    from trainables.sides import both_sides

    device = _device(given)
    precisions = LADDER[given.precision], LADDER[given.baseline_precision]
    keep_freed_memory()
    with isolated(precisions[0], given.seed, given.num_threads):
        model = load_candidate("MODEL", given.model, given.seed)
        if given.baseline == INITIAL:
            baseline = load_initial("BASELINE", given.model)
        else:
            baseline = load_candidate("BASELINE", given.baseline, given.seed)
        examples = load_examples(given.data, model.task, given.model, given.seed)
        examples = examples.sample(_num_samples(given.num_samples, examples.num), given.seed)
        sides = both_sides(model, baseline, precisions, device)
        *found, notes = measure(sides, examples, given.batch_size, given.rounds)
    about = _about(given, sides, found, examples)
    return ComparisonReport(comparison(_plain(found[0]), _plain(found[1])), about, notes)


def _parser() -> Parser:
    parser = Parser(prog="ampsweep compare", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="the model, such as the one that was fine-tuned")
    parser.add_argument("baseline", metavar="BASELINE", help="what it is compared with")
    parser.add_argument("--data", metavar="DATA", help=DATA_HELP)
    numbers = {
        "--num-samples": (None, f"examples, drawn by the seed (default: {DEFAULT_SAMPLES}, or all if there are fewer)"),
        "--batch-size": (32, "examples of a batch (default: 32)"),
        "--rounds": (6, "rounds of timing, each of two windows a model; at least 2 (default: 6)"),
        "--num-threads": (_num_cpus(), f"threads on the CPU (default: {_num_cpus()}, all that may be used)"),
        "--seed": (0, "of the examples drawn, and of weights that a function draws (default: 0)"),
    }
    for name, (default, help) in numbers.items():
        parser.add_argument(name, metavar="N", type=read_whole, default=default, help=help)
    parser.add_argument("--precision", metavar="NAME", default="fp32", help="of both models (default: fp32)")
    parser.add_argument("--baseline-precision", metavar="NAME", help="of the baseline (default: as --precision)")
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where PyTorch sees a GPU)")
    parser.add_argument("--json", action="store_true", help="print JSON: figures, intervals, what was compared and how")
    return parser


def _num_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _check(given: argparse.Namespace) -> None:
    """Refuses what can be told before anything is loaded."""
    for name in ("model", "baseline"):
        text(name.upper(), getattr(given, name), "see --help for what it may be")
    if given.num_samples is not None:
        whole("--num-samples", given.num_samples, at_least=1, remedy="give the number of examples, for example 500")
    whole("--batch-size", given.batch_size, at_least=1, remedy="for example 32")
    whole("--rounds", given.rounds, at_least=2, at_most=MOST_ROUNDS, remedy="6 takes a second or two")
    whole("--num-threads", given.num_threads, at_least=1, at_most=1024, remedy="for example 1")
    whole("--seed", given.seed, at_least=0, at_most=LARGEST_SEED, remedy="such as 0")
    given.baseline_precision = given.baseline_precision or given.precision
    for flag in ("precision", "baseline_precision"):
        one_of(f"--{flag.replace('_', '-')}", getattr(given, flag), LADDER)
    if given.device is not None:
        one_of("--device", given.device, ("cpu", "cuda"))


def _device(given: argparse.Namespace) -> "torch.device":
    """Where both models run; it must have both precisions."""
    import torch

    from trainables.precision import unsupported_reason

    if given.device == "cuda" and not torch.cuda.is_available():
        refuse("--device", "must be a device that PyTorch sees", given.device, "install its CUDA build, or use cpu")
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for flag in ("precision", "baseline_precision"):
        name = getattr(given, flag)
        reason = unsupported_reason(LADDER[name], device)
        if reason is None and LADDER[name].scaling:
            reason = "comparisons convert no layers to FP8"
        if reason is not None:
            refuse(f"--{flag.replace('_', '-')}", f"must be one that this device has ({reason})", name, "use fp32")
    return device


def _num_samples(wanted: int | None, num: int) -> int:
    if wanted is not None and wanted > num:
        refuse("--num-samples", f"must be at most {num}, the examples there are", wanted, "lower it or leave it out")
    return wanted if wanted is not None else min(DEFAULT_SAMPLES, num)


def _plain(found: "comparison.Measured") -> "Measured":
    """What was measured, as the analysis takes it."""
    from analysis.comparison import Measured

    return Measured(found.sums, found.rates, found.values, found.sizes, found.has_perplexity)


def _about(
    given: argparse.Namespace,
    sides: Sequence["Side"],
    found: Sequence["comparison.Measured"],
    examples: "Examples",
) -> dict[str, Any]:
    """What was compared and how, as plain data."""
    from trainables.precision import device_name

    about: dict[str, Any] = {
        name: {
            "place": side.place,
            "precision": side.precision.name,
            "effective_precision": measured.effective_precision,
            "effective_share": measured.effective_share,
        }
        for name, side, measured in zip(("model", "baseline"), sides, found, strict=True)
    }
    about |= {"data": examples.place, "num_samples": examples.num, "batch_size": given.batch_size}
    return about | {"device": device_name(sides[0].device), "num_threads": given.num_threads, "seed": given.seed}
