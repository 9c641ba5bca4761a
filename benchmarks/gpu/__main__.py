"""Everything that a GPU host shows without Ray, in one call and in a given time.

    python -m benchmarks.gpu [--json FILE] [--minutes 8] [--tiny] [--eager] [--profile]

Needs PyTorch and transformers; FP8 needs torchao. Matrix products in each format; BERT-large, a GPT of 355 M parameters
and a tiny MLP in every precision that the device supports, by our loop and by a bare one, eager and compiled; libraries
that change what FP32 means; and what of the aims was reached. What does not fit into the time is left out, and a row
says so; an aim that was missed brings a short profile. The file is written after every row.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.aims import aims_table, find_row, missed, reckon
from benchmarks.gpu.liars import LIARS, Liar, examine
from benchmarks.gpu.matrices import measure_rates, rate_of
from benchmarks.gpu.models import BERT, GPT, MLP, TINY
from benchmarks.gpu.plan import OutOfTime, Part, run_all
from benchmarks.gpu.profile import top_kernels
from benchmarks.gpu.record import Record, Row, rows_table
from benchmarks.gpu.steps import Arm, in_force, measure_arm
from benchmarks.gpu.windows import FULL, TINY_EFFORT
from trainables.ladder import LADDER, Precision
from trainables.loading import describe
from trainables.loop import Loop
from trainables.memory import settle_process
from trainables.precision import unsupported_reason

COMPILED = ("bf16-mixed", "tf32", "fp8-rowwise", "fp8-tensorwise", "bf16-true", "fp16-mixed", "fp16-true", "fp32")
"""Order of importance: compiling takes longest, so that the last ones may not fit into the time."""


class Session:
    """One call: its device, models, effort and rows."""

    def __init__(self, file: Path | None, tiny: bool, profile: bool) -> None:
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self.subjects = TINY if tiny else (MLP, BERT, GPT)
        self.effort = TINY_EFFORT if tiny else FULL
        self.tiny, self.profile = tiny, profile
        self.record = Record(file, self.device, tiny=tiny)
        supported = [name for name in ("tf32", "fp32") if unsupported_reason(LADDER[name], self.device) is None]
        self.baseline = LADDER[supported[0]]

    def parts(self) -> Iterator[Part]:
        """All that is run, the most important first."""
        seconds = self.effort.products_s
        yield Part("matrix", "all", 0.15, 2 * seconds, "matrix", partial(measure_rates, self.device, seconds))
        for liar in LIARS:
            reason = unsupported_reason(LADDER[liar.asked], self.device)
            yield Part("liar", liar.name, 0.2, 10, "liar", partial(self._examine, liar), reason)
        others = [entry for entry in LADDER.values() if entry is not self.baseline and not entry.needs_compile]
        for subject, share in zip(self.subjects, (0.25, 0.5, 0.7), strict=True):
            for precision in (self.baseline, *others):
                yield self._part(Arm(subject, precision), share, 20)
            yield self._part(Arm(subject, self.baseline, again=True), share, 20)
        _, bert, gpt = self.subjects
        for name in COMPILED:
            for subject in (gpt, bert):
                yield self._part(Arm(subject, LADDER[name], compiled=True), 1.0, 75)

    def _part(self, arm: Arm, share: float, estimate_s: float) -> Part:
        kind = f"{arm.subject.name}, compiled {arm.compiled}"
        reason = unsupported_reason(arm.precision, self.device)
        return Part(arm.subject.name, arm.name, share, estimate_s, kind, partial(self._measure, arm), reason)

    def _examine(self, liar: Liar) -> list[Row]:
        return [examine(liar, self.device)]

    def _measure(self, arm: Arm) -> list[Row]:
        """An arm's row, with a profile where it missed an aim."""
        rows = self.record.rows
        with in_force(arm):
            row, loop = measure_arm(arm, self.device, self.effort, rate_of(arm.precision, rows))
            row.against_baseline = self._speedup(row, arm.precision)
            if self.profile or (not self.tiny and missed([*rows, row], self.subjects, row)):
                _add_profile(row, loop)
        return [row]

    def _speedup(self, row: Row, precision: Precision) -> float | None:
        """The eager baseline's time over a row's."""
        base = row if row.arm == self.baseline.name else find_row(self.record.rows, row.item, self.baseline.name)
        return base.step_ms / row.step_ms if base and base.step_ms and row.step_ms else None


def _add_profile(row: Row, loop: Loop) -> None:
    """Profiles an arm's loop; whatever happens, what was measured before is kept."""
    try:
        row.kernels = top_kernels(loop)
    except (Exception, OutOfTime) as error:
        row.note = "; ".join(part for part in (row.note, f"no profile: {describe(error)}") if part)


def main() -> None:
    """Runs all and prints a table of rows and one of aims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="the file that rows are kept in")
    parser.add_argument("--minutes", type=float, default=8, help="that it may take")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script itself out")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled, which takes most of the time")
    parser.add_argument("--profile", action="store_true", help="of every arm, not only where an aim was missed")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    settle_process()
    session = Session(arguments.json, arguments.tiny, arguments.profile)
    record = session.record
    parts = [part for part in session.parts() if not (arguments.eager and "compiled" in part.arm)]
    if arguments.tiny:  # each takes a moment, unless it is compiled
        parts = [part if part.share == 1 else replace(part, share=1.0, estimate_s=0.0) for part in parts]
    run_all(parts, record, session.device, 60 * arguments.minutes)
    record.aims = reckon(record.rows, session.subjects)
    record.write()
    print(rows_table(record.rows), aims_table(record.aims), sep="\n\n")


if __name__ == "__main__":
    main()
