"""What the figures are to reach, and what they did."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gpu.bare import BARE
from benchmarks.gpu.models import Subject
from benchmarks.gpu.record import Row, table

BARE_AIM, BERT_AIM, GPT_AIM, CONTROL_AIM = 1.02, 1.79, 0.45, 1.5


@dataclass(frozen=True)
class Aim:
    """An aim.

    Args:
        what: is measured.
        wanted: as text.
        item, arm: the row that it is read from.
        reached: the figure; ``None`` where it was not measured.
        met: whether that is enough; ``None`` likewise.
    """

    what: str
    wanted: str
    item: str
    arm: str
    reached: float | None
    met: bool | None


def find_row(rows: Sequence[Row], item: str, arm: str) -> Row | None:
    """The measured row of an arm."""
    return next((row for row in rows if (row.item, row.arm, row.status) == (item, arm, "measured")), None)


def reckon(rows: Sequence[Row], subjects: Sequence[Subject]) -> list[Aim]:
    """All aims, over the rows so far.

    Args:
        rows: measured and other.
        subjects: the MLP, BERT and the GPT.

    Source:
        1.79: NVIDIA DeepLearningExamples, PyTorch BERT, fine-tuning BERT-large on SQuAD, one A100, mixed precision over
        TF32.
    """
    mlp, bert, gpt = (subject.name for subject in subjects)
    found = [
        _aim(rows, "ours over the bare loop", operator.le, BARE_AIM, item, name, "against_bare")
        for item in (bert, gpt)
        for name in BARE
    ]
    found.append(_over_tf32(rows, bert))
    arm = "bf16-mixed compiled"
    found.append(_aim(rows, "share of the matrix rate", operator.ge, GPT_AIM, gpt, arm, "of_matrix_rate"))
    for name in ("bf16-mixed", "fp16-mixed"):
        found.append(_aim(rows, "speed-up of the control", operator.lt, CONTROL_AIM, mlp, name, "against_baseline"))
    return found + _liars(rows)


def missed(rows: Sequence[Row], subjects: Sequence[Subject], row: Row) -> bool:
    """Whether an aim that is read from a row was measured and not met."""
    return any(aim.met is False and (aim.item, aim.arm) == (row.item, row.arm) for aim in reckon(rows, subjects))


def aims_table(aims: Sequence[Aim]) -> str:
    """The table of aims."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    rows = [
        [aim.what, aim.item, aim.arm, aim.wanted, "" if aim.reached is None else f"{aim.reached:.3f}", words[aim.met]]
        for aim in aims
    ]
    return table(["aim", "", "arm", "wanted", "reached", ""], rows)


_SIGNS = {operator.le: "at most", operator.ge: "at least", operator.lt: "below"}


def _aim(
    rows: Sequence[Row],
    what: str,
    compare: Callable[[float, float], bool],
    wanted: float,
    item: str,
    arm: str,
    figure: str,
) -> Aim:
    row = find_row(rows, item, arm)
    reached = None if row is None else getattr(row, figure)
    met = None if reached is None else compare(reached, wanted)
    return Aim(what, f"{_SIGNS[compare]} {wanted:g}", item, arm, reached, met)


def _over_tf32(rows: Sequence[Row], item: str) -> Aim:
    """Against TF32 itself, whatever the baseline was."""
    tf32, mixed = (find_row(rows, item, name) for name in ("tf32", "bf16-mixed"))
    reached = tf32.step_ms / mixed.step_ms if tf32 and mixed and tf32.step_ms and mixed.step_ms else None
    met = None if reached is None else reached >= BERT_AIM
    return Aim("speed-up over tf32", f"at least {BERT_AIM}", item, "bf16-mixed", reached, met)


def _liars(rows: Sequence[Row]) -> list[Aim]:
    """Each lie that took is noticed, and nothing else is; ``reached`` is the share of right answers."""
    outcomes = [row.outcome for row in rows if row.item == "liar" and row.outcome]
    right = sum(outcome in ("caught", "nothing to catch") for outcome in outcomes)
    share = right / len(outcomes) if outcomes else None
    return [
        Aim("label liars told from honest trials", "1", "liar", "all", share, None if share is None else share == 1)
    ]
