"""Many trials that do nothing: what Tune's control loop keeps of them, and what it reserves."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util import placement_group_table

from sweeps.engine.cluster import Resources
from sweeps.engine.controller import run_trials
from sweeps.engine.workers import Workers
from sweeps.search.checks import Unfinished
from trainables.adapters.ray_tune import TuneTrial

pytestmark = pytest.mark.ray
MAX_PENDING = 8


class Nothing(TuneTrial):
    """Reports its process twice; some trials kill it."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reports = 0

    def process(self) -> int:
        return os.getpid()

    def step(self) -> dict[str, Any]:
        if self.config["spec"]["dies"]:
            os._exit(1)
        time.sleep(0.02)
        self.reports += 1
        return {"process": os.getpid(), "done": self.reports == 2}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


class Numbers(Searcher):
    """Hands out numbers until it is enough; one of them stands for a trial whose process dies."""

    def __init__(self, enough: Callable[[int], bool], dying: int) -> None:
        super().__init__()
        self.enough, self.dying, self.next = enough, dying, 0

    def suggest(self, trial_id: str) -> Any:
        if self.enough(self.next):
            return Searcher.FINISHED
        self.next += 1
        number = self.next - 1
        precision = ("here", "there")[number % 2]
        return {"spec": {"trial_id": f"trial-{number}", "dies": number == self.dying, "precision": precision}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass


class Watching(FIFOScheduler):
    """Counts the trials that it would have to look through."""

    most = 0

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self.most = max(self.most, len(tune_controller.get_trials()))
        return super().choose_trial_to_run(tune_controller)


class Seen(tune.Callback):
    """Keeps what it is told."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.started: list[str] = []
        self.ended: list[str] = []
        self.failed: list[str] = []
        self.processes: list[int] = []

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.started.append(trial.config["spec"]["trial_id"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if len(self.ended) == self.fails_at:
            raise KeyboardInterrupt
        self.ended.append(trial.config["spec"]["trial_id"])
        self.processes += [trial.last_result["process"]] if trial.last_result else []

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.failed.append(trial.config["spec"]["trial_id"])


def search(
    folder: Path, seen: Seen, scheduler: FIFOScheduler, enough: Callable[[int], bool], dying: int = -1
) -> list[str]:
    searcher = Numbers(enough, dying)
    with Workers(Nothing, Resources(1, 0, 2, 2)) as workers:
        workers.start(2)
        run_trials(workers, searcher, scheduler, seen, 2000, MAX_PENDING, str(folder))
    return [f"trial-{number}" for number in range(searcher.next)]


def wait_until_all_is_free() -> None:
    import ray

    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


def test_trials_share_workers_and_placement_groups_and_are_forgotten(ray_address: str, tmp_path: Path) -> None:
    """Both workers come to their start, although each of the trials takes less time than that."""
    seen, scheduler, before = Seen(), Watching(), set(placement_group_table())
    all_trials = search(tmp_path, seen, scheduler, lambda n: n >= 40 and len(set(seen.processes)) == 2)
    assert sorted(seen.ended) == sorted(all_trials)
    assert len(set(seen.processes)) == 2
    assert len(set(placement_group_table()) - before) <= MAX_PENDING + 2
    assert 0 < scheduler.most <= MAX_PENDING + 2
    wait_until_all_is_free()


def test_a_trial_whose_process_dies_is_tried_again_and_the_others_go_on(ray_address: str, tmp_path: Path) -> None:
    seen = Seen()
    all_trials = search(tmp_path, seen, FIFOScheduler(), lambda n: n >= 20, dying=7)
    assert seen.failed == ["trial-7"]
    assert seen.started.count("trial-7") == 2
    assert sorted(seen.ended) == sorted(set(all_trials) - {"trial-7"})
    wait_until_all_is_free()


class Counting(Seen):
    """Counts, when a trial ends, the placement groups that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        super().on_trial_complete(iteration, trials, trial)
        self.groups.append(sum(group["state"] != "REMOVED" for group in placement_group_table().values()))


def test_nothing_stays_asked_of_the_cluster_for_trials_that_have_found_a_worker(
    ray_address: str, tmp_path: Path
) -> None:
    """An autoscaler would start nodes for it, which nobody would use."""
    seen = Counting()
    all_trials = search(tmp_path, seen, FIFOScheduler(), lambda n: n >= 20)
    assert sorted(seen.ended) == sorted(all_trials)
    assert MAX_PENDING <= max(seen.groups) <= MAX_PENDING + 2
    assert seen.groups[-1] <= 2


def test_trials_that_may_not_run_everywhere_have_workers_of_their_own(ray_address: str, tmp_path: Path) -> None:
    seen = Seen()
    searcher = Numbers(lambda n: n >= 20, dying=5)
    with Workers(Nothing, Resources(1, 0, 2, 2)) as workers:
        workers.keep_to("there", {"label_selector": {"ray.io/node-id": f"!in({'f' * 56})"}})
        workers.start(2)
        run_trials(workers, searcher, FIFOScheduler(), seen, 2000, MAX_PENDING, str(tmp_path))
    assert sorted(seen.ended) == sorted(f"trial-{number}" for number in range(20) if number != 5)
    assert seen.started.count("trial-5") == 2
    processes: dict[int, set[int]] = {0: set(), 1: set()}
    for trial, process in zip(seen.ended, seen.processes, strict=True):
        processes[int(trial.removeprefix("trial-")) % 2].add(process)
    assert not processes[0] & processes[1]
    wait_until_all_is_free()


def test_an_interruption_frees_workers_and_reservations(ray_address: str, tmp_path: Path) -> None:
    seen = Seen(fails_at=5)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, seen, FIFOScheduler(), lambda n: n >= 20)
    assert len(seen.ended) == 5
    wait_until_all_is_free()


def test_trials_run_in_the_workers_that_were_there_before_the_search(ray_address: str, tmp_path: Path) -> None:
    import ray

    seen = Seen()
    searcher = Numbers(lambda n: n >= 30 and len(set(seen.processes)) == 2, dying=-1)
    with Workers(Nothing, Resources(1, 0, 2, 2)) as workers:
        workers.start(2)
        before = {ray.get(workers.first().process.remote())}
        workers.replace_first()
        before.add(ray.get(workers.first().process.remote()))
        run_trials(workers, searcher, FIFOScheduler(), seen, 2000, MAX_PENDING, str(tmp_path))
    assert len(seen.ended) == searcher.next
    assert len(before - set(seen.processes)) == 1
    wait_until_all_is_free()


def test_a_worker_that_dies_idle_costs_its_trial_one_attempt(ray_address: str, tmp_path: Path) -> None:
    import ray

    seen = Seen()
    with Workers(Nothing, Resources(1, 0, 2, 2)) as workers:
        workers.start(2)
        os.kill(ray.get(workers.first().process.remote()), signal.SIGKILL)
        run_trials(
            workers, Numbers(lambda n: n >= 8, dying=-1), FIFOScheduler(), seen, 2000, MAX_PENDING, str(tmp_path)
        )
    assert seen.failed == []
    assert sorted(seen.ended) == sorted(f"trial-{number}" for number in range(8))
    wait_until_all_is_free()


def test_a_worker_that_has_died_since_its_start_is_replaced_before_it_is_used(ray_address: str) -> None:
    import ray

    with Workers(Nothing, Resources(1, 0, 2, 2)) as workers:
        workers.start(2)
        processes = [ray.get(workers.first().process.remote())]
        os.kill(processes[0], signal.SIGKILL)
        processes.append(ray.get(workers.first().process.remote()))
    assert processes[0] != processes[1]
    wait_until_all_is_free()


class Pausable(Nothing):
    """Can be paused, since it has nothing to save."""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        pass


class Pausing(FIFOScheduler):
    """Pauses trials after their first report."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Any) -> str:
        return TrialScheduler.PAUSE if result["training_iteration"] == 1 else TrialScheduler.CONTINUE


@pytest.mark.parametrize("scheduler", [FIFOScheduler(), Pausing()])
def test_a_search_that_is_over_starts_no_trial_and_ends_those_that_wait_or_pause(
    ray_address: str, tmp_path: Path, scheduler: FIFOScheduler
) -> None:
    seen, searcher, running = Seen(), Numbers(lambda n: n >= 2000, dying=-1), list[str]()
    most = [0]

    def rests(trial: Trial) -> None:
        most[0] = max(most[0], len(seen.started) - len(running))
        running.append(trial.config["spec"]["trial_id"])

    with Workers(Pausable, Resources(1, 0, 2, 2)) as workers:
        workers.start(2)
        run_trials(
            *(workers, searcher, scheduler, seen, 2000, MAX_PENDING, str(tmp_path)),
            is_over=lambda: len(seen.started) >= 6,
            on_rest=rests,
        )
    assert len(seen.started) <= 8  # those that a worker had been given already
    assert sorted(running) == sorted(seen.started)  # each time that one began, it also came to rest
    assert most[0] <= 2
    assert set(seen.started) <= set(seen.ended)
    assert len(set(seen.ended)) == searcher.next
    wait_until_all_is_free()


def test_an_interruption_before_the_workers_have_started_leaves_no_reservation(
    ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python raises the interruption when the wait returns; a group that is removed sooner keeps its CPU (Ray 2.60)."""
    from ray.util.placement_group import PlacementGroup

    wait = PlacementGroup.wait

    def interrupted(self: PlacementGroup, timeout_seconds: float) -> bool:
        wait(self, timeout_seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(PlacementGroup, "wait", interrupted)
    before = set(placement_group_table())
    with Workers(Nothing, Resources(1, 0, 2, 2)) as workers, pytest.raises(KeyboardInterrupt):
        workers.start(2)
    new = {name: group["state"] for name, group in placement_group_table().items() if name not in before}
    assert set(new.values()) == {"REMOVED"}
    wait_until_all_is_free()


def test_workers_that_go_with_their_nodes_while_they_start_do_not_end_the_sweep(ray_address: str) -> None:
    import ray

    with Workers(Nothing, Resources(1, 0, 1, 2)) as workers:
        workers.start(1)
        for _ in range(10):
            workers._failed(workers.manager.all_actors[0], ray.exceptions.ActorUnavailableError("no answer", None))
        with pytest.raises(Unfinished, match=r"^workers: must start, got 11 that died \(.*no answer.*\); "):
            workers._failed(workers.manager.all_actors[0], ray.exceptions.ActorUnavailableError("no answer", None))
    wait_until_all_is_free()


class Dying(TuneTrial):
    """Cannot even be made."""

    def setup(self, config: dict[str, Any]) -> None:
        raise RuntimeError("planted")


def test_workers_that_die_while_they_start_end_the_sweep(ray_address: str) -> None:
    with Workers(Dying, Resources(1, 0, 2, 2)) as workers:
        workers.start(2)
        with pytest.raises(Unfinished, match=r"^workers: must start, got 3 that died \(.*planted.*\); "):
            workers.first()
    wait_until_all_is_free()
