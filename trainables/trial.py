"""One trial from beginning to end, or from where it was saved: a generator of reports that never raises for what the
trial itself does wrong.
"""

import copy
import dataclasses
import math
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trainables import checkpoint
from trainables.build import build_observed, make_evaluator, pick_device
from trainables.checkpoint import Saver
from trainables.compiler import CompileError
from trainables.effective import Observation, ObservesItself, observe_again
from trainables.figures import divergence, fill, fill_times, known
from trainables.isolation import isolated, seed_everything
from trainables.ladder import Precision
from trainables.loading import describe, load_function
from trainables.loop import Loop
from trainables.meeting import Meeting, WorkerLost
from trainables.memory import is_out_of_memory, peak_memory_bytes, peak_reserved_bytes, release_memory
from trainables.precision import device_name, lookup, unsupported_reason
from trainables.progress import Progress
from trainables.report import TrialReport
from trainables.sharded import whole
from trainables.spec import STATE_FILE, WEIGHTS_FILE, TrialSpec
from trainables.state import read_state
from trainables.stopping import enough
from trainables.storage import Url
from trainables.tally import Before
from trainables.team import ALONE, meet


def run_trial(spec: TrialSpec, meeting: Meeting | None = None) -> Iterator[TrialReport]:
    """Trains, evaluates and reports until the budget is spent or the trial fails; see :meth:`Trial.reports`."""
    return Trial(spec, meeting).reports()


class Trial:
    """A training run that can be saved between reports and taken up again, in another process or on another machine.

    Args:
        spec: what to run. Where its own folder holds a state of it, it goes on from there.
        meeting: where the trial's workers meet, each of which runs this same trial; ``None`` where it has one. The
            first worker's reports are the trial's.
    """

    def __init__(self, spec: TrialSpec, meeting: Meeting | None = None) -> None:
        self._spec, self._meeting, self._team = spec, meeting, ALONE
        self._report = TrialReport(spec.trial_id, node=socket.gethostname())
        self._past: list[dict[str, Any]] = []
        self._step_times: list[float] = []
        self._elapsed_s = 0.0
        self._wall_before_s = 0.0
        self._started = time.perf_counter()
        self._loop: Loop | None = None
        self._state: Mapping[str, Any] | None = None

    def reports(self) -> Iterator[TrialReport]:
        """Trains, evaluates and reports until the budget is spent or the trial fails.

        Yields:
            a report after every interval; the last one has a status other than ``running``. What fails is its status
            and reason. A trial that goes on from its own folder begins with the reports that it had made.

        Raises:
            WorkerLost: another worker of the trial went away.
        """
        self._started = time.perf_counter()
        device: torch.device | None = None
        try:
            device = pick_device(self._spec.num_gpus)
            self._spec = self._spec.on(device_name(device))
            with meet(self._meeting, device) as self._team:
                yield from self._taken_up()
                yield from self._isolated(device)
        except WorkerLost:
            raise  # the trial did nothing wrong, and its state is still good
        except (Exception, SystemExit) as error:
            self._report.status = "out_of_memory" if is_out_of_memory(error) else "errored"
            self._report.status_reason = describe(error)
            if isinstance(error, CompileError):
                self._report.compiled = False
            error.__traceback__ = None  # its frames hold the model
            yield self._made()
        finally:
            self._loop = None
            if device is not None:
                release_memory(device)
            if self._report.is_last and self._file is not None and self._team.is_first:
                checkpoint.remove(self._file)

    def _taken_up(self) -> Iterator[TrialReport]:
        """Takes up what the first worker was given, or else what it finds in the trial's folder, with its reports."""
        given = self._team.agree(self._state is not None)
        if not given:
            self._state = self._read_own() if self._team.is_first else None
        self.take_up(self._team.agree(self._state))
        yield from [] if given else [TrialReport(**report) for report in self._past]

    def state_dict(self) -> dict[str, Any]:
        """All that the trial goes on from; tensors and plain data. All workers of a team make it together."""
        if self._loop is None:
            return {} if self._state is None else dict(self._state)
        rngs = self._team.gather(checkpoint.rng_state(self._loop.device))
        return {
            "of": self._identity(),
            "loop": self._loop.state_dict(),
            "reports": self._past,
            "step_times": self._step_times,
            "elapsed_s": self._elapsed_s,
            "wall_s": self._wall_s,
            "rng": rngs[0],
            "other_rngs": rngs[1:],
        }

    def take_up(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from what :meth:`state_dict` gave; to be called before the first report.

        Args:
            state: of this trial or of another whose model is of the same shape; empty or ``None`` begins anew.
        """
        self._state = state
        if state:
            self._past = [{**report, "trial_id": self._spec.trial_id} for report in state["reports"]]
            self._step_times, self._elapsed_s = list(state["step_times"]), state["elapsed_s"]
            self._wall_before_s = state["wall_s"]
            if self._past:
                self._report = TrialReport(**copy.deepcopy(self._past[-1]))

    @property
    def _file(self) -> Path | Url | None:
        folder = self._spec.checkpoint_folder
        return None if folder is None else folder / STATE_FILE

    @property
    def _wall_s(self) -> float:
        return self._wall_before_s + time.perf_counter() - self._started

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to be of this trial; by another route it may go on elsewhere."""
        spec = self._spec
        budget = dataclasses.asdict(spec.budget)
        arm = {"precision": spec.precision, "compile": spec.compile, "seed": spec.seed}
        return {"config": dict(spec.config), "budget": budget, **arm}

    def _read_own(self) -> Mapping[str, Any] | None:
        state = checkpoint.read(self._file) if self._file is not None else None
        return state if state and state["of"] == self._identity() else None

    def _made(self) -> TrialReport:
        self._report.wall_s = self._wall_s
        return copy.deepcopy(self._report)

    def _isolated(self, device: torch.device) -> Iterator[TrialReport]:
        spec = self._spec
        self._report.device = device_name(device)
        precision = lookup(spec.precision)
        reason = self._team.first(unsupported_reason(precision, device))
        if reason is not None:
            self._report.status, self._report.status_reason = "unsupported", reason
            yield self._made()
            return
        load_function(spec.task)  # its module runs once a process, so before any trial's own state is set
        with isolated(precision, spec.seed, spec.num_threads, spec.task.directory, spec.compiles(precision)):
            for _ in self._train(precision, device):
                made = self._made()
                if not made.is_last:
                    self._past.append(made.to_dict())
                yield made

    def _train(self, precision: Precision, device: torch.device) -> Iterator[None]:
        """Fills the report in; yields when it is to be sent."""
        report = self._report
        loop, observation = build_observed(self._spec, precision, device, team=self._team)
        self._loop = loop
        report.init_digest, report.route, report.compiled = loop.init_digest, loop.route, loop.is_compiled
        report.effective_precision, report.effective_share = observation.effective, known(observation.share)
        report.step_flops = observation.step_flops
        report.attention = observation.attention
        mismatch = observation.mismatch(precision)
        if mismatch is not None and observation.is_told:
            report.status, report.status_reason = "precision_mismatch", mismatch
            yield
            return
        yield from self._intervals(loop, observation)

    def _intervals(self, loop: Loop, observation: Observation) -> Iterator[None]:
        spec, report = self._spec, self._report
        evaluator = make_evaluator(loop)
        if spec.examples_of is not None and evaluator.names and spec.examples_of not in evaluator.names:
            raise ValueError(f"metric must be one of {', '.join(evaluator.names)}, got {spec.examples_of!r}")
        self._restore(loop)
        every_s = spec.checkpoints.every_s if spec.checkpoints else 0.0
        saver = Saver(self._file if loop.can_be_saved else None, every_s, self.state_dict, self._team)
        while not loop.is_done(spec.budget):
            if saver.is_due:
                saver.save()
            progress = self._train_for(loop, loop.steps_to_report(spec.budget, report.step), saver)
            values, examples = evaluator.evaluate()
            self._fill(loop, observation, progress, values)
            self._judge(loop, observation, progress, values, spent=loop.is_done(spec.budget))
            if report.status == "completed":
                report.examples = examples.get(spec.examples_of or "")
                report.checkpoint = self._keep_weights(loop, values)
            yield
            if report.is_last:
                return

    def _judge(self, loop: Loop, seen: Observation, progress: Progress, values: dict[str, float], spent: bool) -> None:
        """Sets the status where the trial ends with this report."""
        report = self._report
        fault = self._team.first(None if progress.has_collapsed else read_state(loop).fault(loop.precision))
        enough_for = None
        if fault is not None:
            report.effective_precision = None
        elif report.status_reason is None:
            enough_for = None if spent else self._enough(values)
            if spent or enough_for is not None:
                fault = self._look_again(loop, seen)
        if fault is not None:
            report.status, report.status_reason = "precision_mismatch", f"by step {loop.step}, {fault}"
        elif report.status_reason is not None:
            report.status = "diverged"
        elif spent or enough_for is not None:
            report.status, report.status_reason = "completed", enough_for

    def _look_again(self, loop: Loop, observation: Observation) -> str | None:
        """Why what a step computes in by now is not its precision, in a clause; takes over what it is."""
        if not observation.is_told:
            return None  # a model without matrix products
        if isinstance(loop, ObservesItself) and not loop.is_done(self._spec.budget):
            last = loop.latest()  # looking would train it further
        else:
            last = observe_again(loop, observation)
        self._report.effective_precision, self._report.effective_share = last.effective, known(last.share)
        deviation = last.deviation(loop.precision)
        return self._team.first(None if deviation is None else f"{deviation}, other than in the first")

    def _restore(self, loop: Loop) -> None:
        """Last of all before training, since building draws from the generators."""
        if self._state:
            loop.load_state_dict(self._state["loop"])
            rngs = [self._state["rng"], *self._state.get("other_rngs", ())]
            if len(rngs) == self._team.size or self._team.is_first:
                checkpoint.set_rng_state(rngs[self._team.rank], loop.device)
            else:  # saved by another number of workers
                seed_everything(self._team.seed(self._spec.seed, loop.step))
        self._state = {}

    def _train_for(self, loop: Loop, num_steps: int, saver: Saver) -> Progress:
        """Trains to the end of an interval; seconds of training, without those of saving, go to ``_elapsed_s``."""
        started = time.perf_counter()

        def save_if_due() -> None:
            nonlocal started
            if saver.is_due:
                self._elapsed_s += time.perf_counter() - started
                saver.save()
                started = time.perf_counter()

        progress = loop.train(num_steps, save_if_due if self._file is not None else None)
        self._elapsed_s += time.perf_counter() - started if progress.train_s is None else progress.train_s
        return progress

    def _fill(self, loop: Loop, observation: Observation, progress: Progress, values: dict[str, float]) -> None:
        report = self._report
        before = Before(report.step, report.applied_steps)
        fill(report, loop, progress, values)
        self._step_times.append(self._elapsed_s / (report.step - before.step))
        fill_times(report, self._elapsed_s, progress.waited_s, self._step_times, before, loop)
        self._elapsed_s = 0.0
        peak = peak_memory_bytes(loop.model, loop.optimizer, observation.activations, loop.device)
        report.peak_memory_bytes = max(self._team.gather(peak))
        report.peak_reserved_bytes = peak_reserved_bytes(loop.device)
        report.status_reason = divergence(progress, values, report.skipped_steps)

    def _enough(self, values: Mapping[str, float]) -> str | None:
        """Why the trial ends before its budget is spent; ``None`` where it goes on."""
        if self._spec.stopping is None:
            return None
        curve = [*(report["metrics"] for report in self._past), values]
        return enough(self._spec.stopping, curve, self._report.step)

    def _keep_weights(self, loop: Loop, values: Mapping[str, float]) -> str | None:
        """Where the final weights were written: nowhere if a better trial's are kept already."""
        spec, kept = self._spec, self._spec.checkpoints
        folder = spec.checkpoint_folder
        if kept is None or folder is None or not kept.beats(values.get(kept.metric, math.nan), spec.to_beat):
            return None
        weights = whole(loop.model.state_dict(), self._team.is_first)
        path = folder / WEIGHTS_FILE
        kept_at = path.text if isinstance(path, Url) else str(path)
        return kept_at if self._team.is_first and checkpoint.write_weights(path, weights) else None
