"""A sweep from beginning to end: probe, search, confirm, report."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from analysis.schema import CHECKPOINTS_DIR, SWEEP_FILE, UNFINISHED, ResultsError
from sweeps.engine import rows
from sweeps.engine.cluster import Resources, connected
from sweeps.engine.confirm_plan import find_places, find_types, in_halves, lacks_arms, plan_places, searched, winners
from sweeps.engine.dry_run import show
from sweeps.engine.endings import Endings
from sweeps.engine.folders import Home, new_home, refuse_used
from sweeps.engine.journal import Journal, write_declaration
from sweeps.engine.meter import Meter
from sweeps.engine.metric import metric_and_mode
from sweeps.engine.probe import Usable, ladder_order, probe_spec, probe_types, unprobed, usable_anywhere
from sweeps.engine.progress import Progress
from sweeps.engine.recorder import Recorder
from sweeps.engine.resume import Past, read_past, task_digest
from sweeps.engine.search_budget import SearchBudget
from sweeps.engine.shared import check_shared
from sweeps.engine.source import find_source
from sweeps.engine.sweep import Sweep, SweepError
from sweeps.engine.tracking import check_installed, summarize, tracking_of
from sweeps.engine.unfinished import find_run
from sweeps.search.checks import Unfinished
from sweeps.search.plan import PlannedTrial, check_points, plan_left_out, preview
from sweeps.search.unsearched import given_configs
from trainables.loading import TaskError, TaskSource
from trainables.spec import Checkpoints

if TYPE_CHECKING:
    from analysis import Results
    from sweeps.engine.device_types import DeviceType
    from sweeps.engine.workers import Workers


KEPT = "what was measured so far is kept, --resume goes on with it"


def run(sweep: Sweep, console: Console | None = None) -> "Results":
    """Runs a sweep and returns its results.

    Args:
        sweep: what to run.
        console: where progress is shown; default: standard output.

    Returns:
        what ``analysis.load`` gives for the run's folder; of a dry run, which shows the plan alone, no rows.

    Raises:
        SweepError, TaskError: bad input; nothing was trained.
        Unfinished: the sweep could not go on; what it measured so far is kept.
        KeyboardInterrupt: with :data:`KEPT` where that holds.
    """
    if sweep.dry_run:
        return show(sweep, console or Console())
    task = find_source(sweep.task)
    # Bad points and searchers that do not work are found out before Ray starts.
    num_trials, first = preview(sweep, ladder_order(sweep.precisions))
    check_points(sweep)
    check_installed(sweep)
    home = find_run(sweep) if sweep.resume else new_home(sweep)
    # The journal first: it holds the lock without which the folder is another driver's.
    with (
        Journal(home.folder) as journal,
        home.kept(lambda: journal.is_taken_back),
        _unless_ended(journal),
        Progress(console or Console()) as progress,
    ):
        if journal.is_used and not sweep.resume:
            refuse_used(sweep.storage, home.folder.name)  # by a driver that was quicker
        past = read_past(home.folder, sweep, task.source) if sweep.resume else Past()
        source = task.kept_in(home)
        progress.say(f"sweep   {sweep.name}: {source.name}, {_begun(sweep, home, num_trials, past)}")
        meter = Meter(sweep.usd_per_hour, past.run_s, past.spent_usd, past.costs)
        recorder = Recorder(journal, progress, past.steps, past.begun, meter)
        this = _Run(sweep, source, home, num_trials, first, past, recorder)
        this.declare(past.metric or sweep.metric or "val_loss", past.mode if past.metric else sweep.mode or "min")
        with connected(sweep) as resources, recorder.costs_kept():
            nodes = check_shared(home)
            if resources.waits_for:
                progress.say(f"cluster {resources.waits_for}")
            this.stages(resources, nodes)
        tracking = tracking_of(sweep, home.folder, "summary")
    results = home.results()
    recorder.warn(summarize(sweep, tracking, results))
    return results


def _begun(sweep: Sweep, home: Home, num_trials: int, past: Past) -> str:
    """What a run sets out to do, in words."""
    what = f"{num_trials} trials" if num_trials else "no search"
    if sweep.resume and num_trials:
        what += f", {len(past.ended & past.searched.keys())} of them done"
    return f"{what}; {'goes on in' if sweep.resume else 'results go to'} {home}{home.caution}"


@contextmanager
def _unless_ended(journal: Journal) -> Iterator[None]:
    """Takes a run's beginning back where bad input ended it in the probe, so that its name is not used up.

    An interruption says that the run can go on, if it has got so far.
    """
    try:
        yield
    except (SweepError, TaskError, ResultsError) as error:
        if not journal.only_probed:
            raise Unfinished(str(error)) from error
        journal.take_back()
        raise
    except KeyboardInterrupt as error:
        if not (journal.folder / SWEEP_FILE).exists():
            journal.take_back()
            raise
        raise KeyboardInterrupt(KEPT) from error


@dataclass(frozen=True)
class _Run:
    """A run of a sweep.

    Args:
        sweep: what was declared.
        source: its task.
        home: where its results lie.
        num_trials: of the search, at most.
        first: trial of the search, or of what is confirmed without one; the probe is made with it.
        past: what was recorded before, where the run goes on.
        recorder: takes all that happens.
    """

    sweep: Sweep
    source: TaskSource
    home: Home
    num_trials: int
    first: PlannedTrial | None
    past: Past
    recorder: Recorder

    def declare(self, metric: str, mode: Literal["max", "min"], **more: Any) -> None:
        """Writes ``sweep.json``: the sweep, with what its trials are ranked by.

        Which metrics the task has, only the probe can tell; until then ``val_loss`` stands in, which every task has.
        """
        folder = self.recorder.journal.folder
        resolved = {"run_name": folder.name, "metric": metric, "mode": mode, "probed": bool(self.past.usable)}
        write_declaration(folder, {**self.sweep.to_json(), **task_digest(self.source), **resolved, **more})

    def stages(self, resources: Resources, nodes: Collection[str]) -> None:
        """The stages in their order, up to the last one asked for; some nodes are known to see the storage."""
        from sweeps.engine.device_types import check_fit, device_types
        from sweeps.engine.workers import Workers
        from trainables.adapters.ray_tune import TuneTrial

        endings: Endings | None = None
        types = device_types(resources)
        check_fit(types, resources)
        with Workers(TuneTrial, resources) as workers:
            usable, metric, mode = self._probe(types, resources, workers)
            check_shared(self.home, nodes)  # those that came for the probe, too
            if self.sweep.stage != "probe" and usable_anywhere(usable):
                folder = self.home.shared(CHECKPOINTS_DIR)
                checkpoints = Checkpoints(folder, self.sweep.checkpoint_every_s, metric, mode)
                endings = Endings(self.recorder, checkpoints, self.past.kept)
                if self.sweep.num_trials > 0:
                    self._search(types, resources, workers, usable, endings)
        self.recorder.search_ends()
        if self.sweep.stage == "confirm" and endings is not None:
            self._confirm(resources, usable, endings)
        self.declare(metric, mode, probed=True, ended_at=rows.now())

    def _probe(
        self, types: "Sequence[DeviceType]", resources: Resources, workers: "Workers"
    ) -> tuple[Usable, str, Literal["max", "min"]]:
        """What each device type can use, and what the task's trials are ranked by."""
        usable, metric, mode = dict(self.past.usable), self.past.metric, self.past.mode
        if unprobed(types, usable) and len(types) < 2:
            workers.start(1 if self.sweep.stage == "probe" else max(1, min(self.num_trials, resources.slots)))
        results = self._probe_types(types, resources, usable, workers)
        if not self.past.usable:
            metrics = next((result["metrics"] for result in results if result["metrics"]), None)
            own = None if metrics is None else [name for name in metrics if name != "val_loss"]
            metric, mode = metric_and_mode(self.sweep, own)
            self.declare(metric, mode, probed=True)
        self.recorder.progress.ranks_by(metric, mode)
        return usable, metric, mode

    def _probe_types(
        self, types: "Sequence[DeviceType]", resources: Resources, usable: Usable, workers: "Workers | None" = None
    ) -> list[dict[str, Any]]:
        spec = probe_spec(self.sweep, self.source, self.first, resources)
        return probe_types(spec, self.sweep, types, resources, usable, workers, self.recorder)

    def _search(
        self,
        types: "Sequence[DeviceType]",
        resources: Resources,
        workers: "Workers",
        usable: Usable,
        endings: Endings,
    ) -> None:
        from sweeps.engine.device_types import search_on
        from sweeps.engine.tune import run_search
        from sweeps.search.searchers import make_search

        names = usable_anywhere(usable)
        search = make_search(self.sweep, names, endings.checkpoints, self.past.searched, resources.slots)
        left_out = [trial for trial in plan_left_out(self.sweep, names) if trial.trial_id not in self.past.ended]
        if not search.total and not left_out:
            return
        what = f"{search.total} trials in {', '.join(names)}; {self._at_once(search.total, resources)}"
        self.recorder.progress.stage("search", search.total + len(left_out), what)
        for trial in left_out:
            reason = f"the probe left {trial.precision} out"
            self.recorder.record("trial", rows.never_ran(trial, "search", "excluded", reason))
        for name in names:
            able = [each for each in types if each.fits and name in usable.get(each.name, {})]
            if able:
                workers.keep_to(name, search_on(able, types, resources))
        budget = SearchBudget(self.sweep, self.recorder.meter)
        begun: Collection[str] = ()
        if search.total and not budget.is_spent():
            workers.start(min(search.total, resources.slots) if workers.are_shared_by(names) else 0)
            past, recorder = self.past.reports, self.recorder
            begun = run_search(
                self.sweep, self.source, search, past, resources, workers, usable, recorder, endings, budget
            )
        if search.total and budget.spent:
            self._ended_by(budget.spent, search.total, begun, endings)
        if search.remark:
            self.recorder.progress.say(f"  {search.remark}")
        if search.error is not None:
            raise Unfinished(f"{search.error}; {KEPT}") from search.error

    def _at_once(self, num_trials: int, resources: Resources) -> str:
        """How many trials run at once, and what that costs an hour, in words."""
        num = min(num_trials, resources.slots)
        hourly = self.recorder.meter.hourly(1 if resources.can_grow else num)
        more = " and more as nodes come" if resources.can_grow else ""
        return f"{resources.slots} at once{more}" + (f", {hourly}{' for each' if more else ''}" if hourly else "")

    def _ended_by(self, budget: str, num_planned: int, begun: Collection[str], endings: Endings) -> None:
        """Says that a budget ended the search; trials of an earlier process that did not go on end with it."""
        not_run = num_planned - len(begun)
        short = f"; {not_run} of {num_planned} trials did not run" if not_run else ""
        self.recorder.progress.say(f"  {budget} is spent: the search ends{short}")
        for trial_id, row in self.past.searched.items():
            if row["status"] in UNFINISHED and trial_id not in begun:
                reason = f"stopped by {budget} before it went on"
                self.recorder.record("trial", {"trial_id": trial_id, **self.past.reached(trial_id)})
                endings.record(trial_id, row["precision"], None, "pruned", reason)

    def _confirm(self, resources: Resources, usable: Usable, endings: Endings) -> None:
        from sweeps.engine.confirm import Confirmation

        if self.sweep.confirm is None:
            return
        types = find_types(resources, self.recorder.progress)
        self._probe_types(types, resources, usable)
        places = find_places(types, usable, resources)
        for place in [each for each in places if lacks_arms(each, self.sweep)]:
            there = f" on {place.device}" if len(places) > 1 else ""
            known = ", ".join(place.routes)
            self.recorder.progress.say(f"confirm left out{there}: of the precisions, only {known} can be used here")
        places = [each for each in places if not lacks_arms(each, self.sweep)]
        folder, ranks = self.recorder.journal.folder, endings.checkpoints
        searches = self.sweep.num_trials > 0
        top_k = self.sweep.confirm.top_k
        configs = winners(folder, ranks.metric, ranks.mode, top_k) if searches else given_configs(self.sweep)
        if not configs or not places:
            return
        used = {row["seed"] for row in searched(folder)}
        trials = plan_places(places, usable, configs, self.sweep.confirm.num_seeds, self.sweep.seed, used)
        # Half of the pairs before the full runs and half after: a machine's speed drifts within minutes, and pairs that
        # are all timed in a row would agree with each other more than with the next hour.
        early, late = (
            [trial for trial in half if (trial.block_id, trial.device) not in self.past.timed]
            for half in in_halves(trials)
        )
        trials = [trial for trial in trials if trial.trial_id not in self.past.ended]
        blocks = len({(trial.block_id, trial.device) for trial in [*early, *late]})
        if not trials and not blocks:
            return
        which = " best" if searches else ""
        those = f"the{which} configuration" if len(configs) == 1 else f"the {len(configs)}{which} configurations"
        where = f" on {len(places)} device types" if len(places) > 1 else ""
        what = f"{those}{' again' if searches else ''}{where}: {len(trials)} full runs and {blocks} timed pairs"
        self.recorder.progress.stage("confirm", len(trials) + blocks, what)
        confirmation = Confirmation(self.sweep, self.source, places, self.recorder, endings)
        confirmation.time_blocks(early)
        confirmation.run_trials(trials)
        confirmation.time_blocks(late)
