"""A trial as Ray Tune runs it: one report a step, in worker processes that go on to the next trial."""

import dataclasses
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from trainables.adapters.ray_team import Crew, settle_worker
from trainables.spec import STATE_FILE, TrialSpec

if TYPE_CHECKING:
    from trainables.report import TrialReport
    from trainables.tracked import Tracked
    from trainables.trial import Trial


class TuneTrial(tune.Trainable):
    """Runs the trial that ``config["spec"]`` describes, completed by what all trials of the run share.

    A result carries the metrics by name, for schedulers, the whole report under ``"report"``, and Ray's ids of its
    workers' nodes under ``"node_ids"``. A trial that fails says so in its last report, and the process takes the next
    one: only the death of the process is an error of Tune's.

    Where its placement group has several bundles, it is the first of a trial's workers and has the others follow.
    Made without a configuration it only imports what trials need, and then probes or is given a trial.
    """

    _crew: Crew | None = None
    _trial: "Trial"
    _tracked: "Tracked | None" = None
    _reports: "Iterator[TrialReport]" = iter(())

    def setup(self, config: dict[str, Any]) -> None:
        """Makes the trial ready; nothing is built before the first step, so that building can fail as a report.

        Args:
            config: ``{"spec": ...}`` with the fields of :class:`trainables.spec.TrialSpec`, or nothing.
        """
        from trainables.tracked import track
        from trainables.trial import Trial

        crew = self._others
        settle_worker(crew.num_workers)
        if config:
            meeting = crew.meet()
            with crew.also("begin", config["spec"], meeting):
                self._trial = Trial(TrialSpec.from_dict(config["spec"]), meeting)
            self._reports = self._trial.reports()
            self._tracked = track(TrialSpec.from_dict(config["spec"]))

    @property
    def _others(self) -> Crew:
        self._crew = self._crew or Crew()
        return self._crew

    def _setup_logdir(self) -> None:
        """Nothing before a trial: Tune would leave a folder in ``~/ray_results`` for each worker that starts."""
        if self._storage:
            super()._setup_logdir()  # type: ignore[no-untyped-call]

    def probe(self, spec: dict[str, Any], precisions: list[str], route: str | None) -> Iterator[dict[str, Any]]:
        """Probes precisions; see :func:`trainables.probe.probe`.

        Args:
            spec: the fields of a :class:`trainables.spec.TrialSpec`.
            precisions: names of the ladder.
            route: the one to take; ``None`` takes the fastest in each precision.

        Yields:
            the fields of a :class:`trainables.probe.ProbeResult` for each, with the seconds that it took as ``held_s``,
            and ``node_ids``.

        Raises:
            TaskError: the task cannot be built.
        """
        from trainables.loading import TaskError, describe
        from trainables.probe import probe

        began = time.monotonic()
        try:
            meeting = self._others.meet()
            with self._others.also("probe", spec, precisions, route, meeting):
                for result in probe(TrialSpec.from_dict(spec), precisions, route, meeting):
                    now = time.monotonic()
                    place = {"held_s": now - began, "node_ids": self._others.node_ids}
                    began = now
                    yield dataclasses.asdict(result) | place
        except TaskError as error:
            raise TaskError(str(error)) from None  # what it came from need not survive the way to the driver
        except KeyboardInterrupt as error:  # to Ray it would mean that the driver had cancelled the probe
            raise TaskError(f"task: must run to its end, got {describe(error)}; correct the task") from None

    def step(self) -> dict[str, Any]:
        """Trains until the next report."""
        with self._others.also("step"):
            report = next(self._reports)
        if self._tracked is not None:
            report.warning = self._tracked.saw(report)
        if report.is_last and report.status != "completed":
            refuse_poisoned_gpu(report.status_reason or report.status)
        where = {"report": report.to_dict(), "node_ids": self._others.node_ids}
        return {**report.metrics, **where, "done": report.is_last}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leaves the trial and takes the next one, in the same process."""
        self._leave()
        self.setup(new_config)
        return True

    def take(self, config: dict[str, Any], storage: Any) -> dict[str, Any]:
        """Takes the next trial and trains until its first report.

        Args:
            config: as of :meth:`setup`, with what Tune adds for ``reset``.
            storage: Tune's own, of that trial.
        """
        tune_s: Any = self  # whose own methods have no types
        tune_s.reset(config, storage=storage)
        return dict(tune_s.train())

    def tell_end(self, status: str, reason: str | None) -> None:
        """Tells trackers how the trial ended where it did not end by itself.

        Args:
            status, reason: as in the results.
        """
        if self._tracked is not None:
            self._tracked.end(status, reason)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Saves the trial where Tune wants to pause or copy it."""
        from trainables.checkpoint import write

        with self._others.also("state"):
            write(Path(checkpoint_dir) / STATE_FILE, self._trial.state_dict())

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Goes on from what :meth:`save_checkpoint` saved, perhaps for another trial; called before the first step."""
        from trainables.checkpoint import read

        self._trial.take_up(read(Path(checkpoint) / STATE_FILE))

    def cleanup(self) -> None:
        """Ends the last trial where it stands; trackers get a while for what they have still to do."""
        self._leave()
        if self._tracked is not None:
            self._tracked.wait()

    def _leave(self) -> None:
        """Ends the trial where it stands and restores the global state that it found."""
        self.tell_end("running", None)  # unless it has ended: paused, it goes on later
        if isinstance(self._reports, Generator):
            with self._others.also("end"):
                self._reports.close()


def refuse_poisoned_gpu(reason: str) -> None:
    """Ends a process whose CUDA context a failed trial broke for good, as an illegal memory access does.

    Raises:
        RuntimeError: the GPU does not answer any more; with the trial's own reason.
    """
    import torch

    if torch.cuda.is_initialized():  # pragma: gpu
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise RuntimeError(reason) from error
