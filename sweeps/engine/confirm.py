"""Confirm: the winners again, in every precision, with new seeds; metric and timing apart, without a scheduler."""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from analysis.schema import EXAMPLES_DIR
from sweeps.engine import rows
from sweeps.engine.cluster import Resources
from sweeps.engine.confirm_plan import Place
from sweeps.engine.device_types import check_device, ruling_out
from sweeps.engine.endings import Endings
from sweeps.engine.idle import LOOK_EVERY_S, Idle
from sweeps.engine.recorder import Recorder
from sweeps.engine.remote import Streams
from sweeps.engine.sweep import Sweep
from sweeps.engine.tracking import tell_end, tracking_of
from sweeps.search.plan import PlannedTrial
from trainables.loading import TaskSource
from trainables.meeting import Meeting
from trainables.spec import TimingJob, TrialSpec


class Confirmation:
    """Runs the confirming trials and timings of a sweep.

    Args:
        sweep: its budget, and how models train.
        source: the task.
        places: where; a trial is of the one that has its device type.
        recorder: takes the rows.
        endings: takes the trials that end, and says by which metric they are compared.
    """

    def __init__(
        self,
        sweep: Sweep,
        source: TaskSource,
        places: Sequence[Place],
        recorder: Recorder,
        endings: Endings,
    ) -> None:
        self._places = {place.device: place for place in places}
        self._sweep, self._source = sweep, source
        self._recorder, self._endings = recorder, endings
        self._last: dict[str, Mapping[str, Any]] = {}
        self._nodes: dict[str, Sequence[str]] = {}
        self._begun: set[str] = set()

    def _spec(self, trial: PlannedTrial) -> TrialSpec:
        place, checkpoints = self._places[trial.device], self._endings.checkpoints
        return TrialSpec(
            trial.trial_id,
            self._source,
            trial.config,
            trial.precision,
            trial.seed,
            self._sweep.budget,
            *self._where(trial),
            place.routes[trial.precision],
            self._sweep.compile,
            self._sweep.fsdp,
            examples_of=checkpoints.metric,
            checkpoints=checkpoints,
            to_beat=self._endings.to_beat(trial.precision),
        )

    def _where(self, trial: PlannedTrial) -> tuple[float, float, int]:
        resources = self._places[trial.device].resources
        return resources.num_cpus, resources.num_gpus, resources.num_workers

    def _job(self, trial: PlannedTrial) -> dict[str, Any]:
        tracking = tracking_of(self._sweep, self._recorder.journal.folder, "confirm")
        return replace(self._spec(trial), tracking=tracking).to_dict()

    def run_trials(self, trials: Sequence[PlannedTrial]) -> None:
        """One full run of each, as many at once as the cluster has room for."""
        import ray

        from sweeps.engine.failures import Losses, is_misplaced, may_go_on

        losses: defaultdict[str, Losses] = defaultdict(Losses)
        with ExitStack() as stack:
            streams = {device: stack.enter_context(_runs(place.resources)) for device, place in self._places.items()}
            waiting = {streams[trial.device].start(self._job(trial), trial.device): trial for trial in trials}
            idle = self._idle(next(iter(self._places.values())).resources.per_worker)
            while waiting:
                ready: list[Any] = ray.wait(list(waiting), num_returns=1, timeout=LOOK_EVERY_S)[0]
                self._recorder.keep_costs()
                idle.look(any(trial.trial_id in self._nodes for trial in waiting.values()))
                if not ready:
                    continue
                stream, trial = ready[0], waiting[ready[0]]
                there = streams[trial.device]
                try:
                    said = ray.get(next(stream))
                except StopIteration:
                    there.ended(stream)
                    del waiting[stream]
                except ray.exceptions.RayError as error:
                    there.ended(stream)
                    del waiting[stream]
                    self._recorder.meter.rests(trial.trial_id)
                    if self._has_ended(trial):
                        continue
                    came_to = (self._last.get(trial.trial_id) or {}).get("step", 0)
                    was_on = self._nodes.pop(trial.trial_id, ())
                    if is_misplaced(error):
                        there.keep_off(was_on[:1])
                    if may_go_on(error) and losses[trial.trial_id].goes_on(error, came_to, was_on):
                        waiting[there.start(self._job(trial), trial.device)] = trial
                    else:
                        self._failed(trial, error)
                else:
                    self._take(trial, **said)

    def _idle(self, options: Mapping[str, Any]) -> Idle:
        return Idle(self._recorder.progress, options, self._sweep.workers_per_trial)

    def _has_ended(self, trial: PlannedTrial) -> bool:
        """Whether a trial has told its end; what becomes of its process after that is nothing to it."""
        last = self._last.get(trial.trial_id)
        return last is not None and last["status"] != "running"

    def _failed(self, trial: PlannedTrial, error: Exception) -> None:
        from sweeps.engine.failures import failure

        self._start_unless_started(trial)
        status, reason = failure(error)
        self._endings.record(trial.trial_id, trial.precision, self._last.get(trial.trial_id), status, reason)
        tell_end(self._job(trial), status, reason)

    def _take(self, trial: PlannedTrial, report: Mapping[str, Any] | None, node_ids: Sequence[str]) -> None:
        """Takes what an attempt of a trial says: that it has begun, of which nobody else knows, and each report."""
        self._nodes[trial.trial_id] = node_ids
        if report is None:
            self._start_unless_started(trial)
            self._recorder.meter.begins(trial.trial_id, self._places[trial.device].resources.per_worker)
            return
        self._last[trial.trial_id] = report
        self._recorder.meter.is_at(trial.trial_id, report["device"], node_ids)
        self._recorder.warn(report["warning"])
        if report["metrics"]:
            self._recorder.record("report", rows.reported("confirm", report))
        if report["status"] != "running":
            self._keep_examples(trial.trial_id, report)
            self._endings.record(trial.trial_id, trial.precision, report, report["status"], report["status_reason"])

    def _start_unless_started(self, trial: PlannedTrial) -> None:
        if trial.trial_id not in self._begun:
            self._begun.add(trial.trial_id)
            row = rows.started(trial, "confirm", *self._where(trial))
            self._recorder.record("trial", row | {"device": trial.device})

    def _keep_examples(self, trial_id: str, report: Mapping[str, Any]) -> None:
        if report["examples"] is not None:
            import numpy as np

            journal = self._recorder.journal
            folder = journal.folder / EXAMPLES_DIR
            with journal.writing():
                folder.mkdir(exist_ok=True)
                np.save(folder / f"{trial_id}.npy", report["examples"])

    def time_blocks(self, trials: Sequence[PlannedTrial]) -> None:
        """Times every block of the trials, one after the other, on a device that nothing else uses."""
        blocks = {(trial.device, trial.block_id): trial for trial in trials}
        for device, place in self._places.items():
            there = [block for block in blocks.values() if block.device == device]
            for block, record in zip(there, self._timed(there, place), strict=True):
                own = {"block_id": block.block_id, "config_id": block.config_id, "seed": block.seed, "device": device}
                held = (record.pop("node_ids", ()), record.pop("held_s", None))
                cost_usd = self._recorder.meter.charge(place.resources.exclusive, record.get("device"), *held)
                self._recorder.record("timing", own | record | {"cost_usd": cost_usd})
                self._recorder.keep_costs()

    def _timed(self, blocks: Sequence[PlannedTrial], place: Place) -> Iterator[dict[str, Any]]:
        """A record for each block; a block whose workers die has one that says so, and the next go on in another."""
        import ray

        from sweeps.engine.failures import Losses, failure, is_misplaced, may_go_on

        options = place.resources.exclusive
        left = [TimingJob(self._spec(block), tuple(place.routes), place.routes).to_json() for block in blocks]
        losses, is_on = Losses(), list[str]()
        while left:
            try:
                with Streams(_time_blocks, options, place.resources.num_workers) as streams:
                    for said in streams.each(self._idle(options), left, place.device):
                        is_on = said["node_ids"]
                        if "status" in said:
                            left.pop(0)
                            if not losses.are_none:
                                said["held_s"] = None  # nobody knows how long what was lost had held the device
                            losses = Losses()
                            yield said
            except ray.exceptions.RayError as error:
                was_on, is_on = is_on, []
                if not left:  # it had told all
                    return
                if is_misplaced(error):
                    options = ruling_out(was_on[:1], options)
                if may_go_on(error) and losses.goes_on(error, node_ids=was_on):
                    continue
                status, reason = failure(error)
                left.pop(0)
                losses = Losses()
                yield {"status": status, "status_reason": reason, "arms": []}


def _runs(resources: Resources) -> Streams:
    # GPU tasks of Ray's end their process after each call; these restore what they change.
    return Streams(_run_trial, {"max_calls": 0, **resources.per_worker}, resources.num_workers)


def _run_trial(spec: dict[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """Says that it has begun, and then each report; ``device`` is where it has to run."""
    from trainables.adapters.ray_team import joined_by, node_ids, settle_worker
    from trainables.tracked import tracked_while
    from trainables.trial import run_trial

    trial, nodes = TrialSpec.from_dict(spec), node_ids()
    yield {"report": None, "node_ids": nodes}
    check_device(device, trial.num_gpus > 0)
    settle_worker(trial.num_workers)
    with tracked_while(trial) as tracked, joined_by(trial.num_workers, _run_along, spec) as meeting:
        for report in run_trial(trial, meeting):
            report.warning = tracked.saw(report)
            yield {"report": report.to_dict(), "node_ids": nodes}


def _run_along(spec: dict[str, Any], meeting: Meeting) -> None:
    """One of the other workers of a trial."""
    from trainables.adapters.ray_team import settle_worker
    from trainables.trial import run_trial

    trial = TrialSpec.from_dict(spec)
    settle_worker(trial.num_workers)
    for _ in run_trial(trial, meeting):
        pass


def _time_blocks(jobs: list[str], device: str) -> Iterator[dict[str, Any]]:
    """Says that it has begun, and then how each block went; ``device`` is where they have to be timed."""
    from trainables.adapters.ray_team import joined_by, node_ids

    began, nodes, trial = time.monotonic(), node_ids(), TimingJob.from_json(jobs[0]).trial
    yield {"node_ids": nodes}
    check_device(device, trial.num_gpus > 0)
    with joined_by(trial.num_workers, _time_along, jobs) as meeting:
        for answer in _answers(jobs, meeting):
            now = time.monotonic()
            yield {**answer, "held_s": now - began, "node_ids": nodes}
            began = now


def _time_along(jobs: list[str], meeting: Meeting) -> None:
    """One of the other workers of the trials that are timed."""
    for _ in _answers(jobs, meeting):
        pass


def _answers(jobs: list[str], meeting: Meeting | None) -> Iterator[dict[str, Any]]:
    """Each block in a fresh process, made by the server that :mod:`trainables.pairs` runs."""
    if meeting is not None:
        jobs = [TimingJob.from_json(job).at(meeting, number).to_json() for number, job in enumerate(jobs)]
    command = [sys.executable, "-m", "trainables.pairs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_own_path()) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for job in jobs:
            server.stdin.write(job + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            if not answer:
                raise RuntimeError(f"the timing server ended with exit code {server.wait()}")
            yield json.loads(answer)
        server.stdin.close()


def _own_path() -> dict[str, str]:
    """The environment, with the modules found that this worker finds: Ray extends ``sys.path``, not ``PYTHONPATH``."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
