"""How trials end: their rows, and which of their checkpoints stay."""

from collections.abc import Mapping
from typing import Any

from analysis.schema import CHECKPOINTS_DIR, Status
from sweeps.engine import rows
from sweeps.engine.recorder import Recorder
from trainables.spec import WEIGHTS_FILE, Checkpoints
from trainables.storage import delete_folder, place


class Endings:
    """Records how trials end, and keeps of each precision the weights of its best completed trial, no others.

    Args:
        recorder: takes the rows.
        checkpoints: where trials are saved, and by which metric they are compared.
        kept: precision -> trial whose weights an interrupted run had kept, and its metric.
    """

    def __init__(
        self, recorder: Recorder, checkpoints: Checkpoints, kept: Mapping[str, tuple[str, float]] | None = None
    ) -> None:
        self.checkpoints = checkpoints
        self._recorder = recorder
        self._kept = dict(kept or {})

    def to_beat(self, precision: str) -> float | None:
        """The best metric of a completed trial of a precision so far, ``None`` before the first."""
        return self._kept[precision][1] if precision in self._kept else None

    def record(
        self, trial_id: str, precision: str, report: Mapping[str, Any] | None, status: Status, reason: str | None
    ) -> None:
        """One trial's end, with its last report if it made one."""
        beaten = None
        meter, ranks = self._recorder.meter, self.checkpoints
        meter.rests(trial_id)
        row = rows.ended(trial_id, report, status, reason, ranks.metric, ranks.mode, meter.usd(trial_id))
        if report is not None and report["checkpoint"] is not None:
            beaten = self._beaten_by(trial_id, precision, report["metrics"][self.checkpoints.metric])
            if beaten != trial_id:
                row["checkpoint"] = f"{CHECKPOINTS_DIR}/{trial_id}/{WEIGHTS_FILE}"
        self._recorder.record("trial", row)
        if beaten not in (None, trial_id):
            self._recorder.record("trial", {"trial_id": beaten, "checkpoint": None})
        if status == "pruned":
            beaten = trial_id
        if beaten is not None:
            delete_folder(place(self.checkpoints.folder) / beaten)

    def _beaten_by(self, trial_id: str, precision: str, value: float) -> str | None:
        """The trial whose weights need not stay: this one, the best so far, or none where this one is the first."""
        if not self.checkpoints.beats(value, self.to_beat(precision)):
            return trial_id
        before = self._kept.get(precision)
        self._kept[precision] = (trial_id, value)
        return before[0] if before is not None else None
