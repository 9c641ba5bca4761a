"""What searchers choose, and what they are told, in searches driven by hand."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.samplers import TPESampler
from ray.tune.search import ConcurrencyLimiter, Repeater
from ray.tune.search.optuna import OptunaSearch
from searches import (
    PRECISIONS,
    RANKS,
    SPACE,
    Counting,
    declare,
    distance,
    drive,
    make,
    own_space,
    result,
    rows_of,
    studies,
)

from sweeps import uniform
from sweeps.search.plan import PlannedTrial, plan_search, preview, search_seed, with_config
from sweeps.search.searchers import make_search


def test_tpe_follows_the_results_of_each_precision_alone() -> None:
    ended = drive(make(declare(space={"x": uniform(0, 1)}, num_trials=80)), distance)
    assert [trial.trial_id for trial in ended[:4]] == [
        *("search-0000-fp32", "search-0000-bf16-mixed"),
        *("search-0001-fp32", "search-0001-bf16-mixed"),
    ]
    by_precision = {name: [trial for trial in ended if trial.precision == name] for name in PRECISIONS}
    for precision, best in (("fp32", 0.1), ("bf16-mixed", 0.9)):
        assert [trial.index for trial in by_precision[precision]] == list(range(40))
        early, late = (
            [abs(trial.config["x"] - best) for trial in part]
            for part in (by_precision[precision][:10], by_precision[precision][20:])
        )
        assert sum(late) / len(late) < 0.5 * sum(early) / len(early)
    for one, other in zip(*(trials[:10] for trials in by_precision.values()), strict=True):
        assert (one.config, one.seed, one.block_id) == (other.config, other.seed, other.block_id)
        assert one.seed == search_seed(0, one.index)
    assert by_precision["fp32"][30].config != by_precision["bf16-mixed"][30].config


def test_tpe_starts_to_follow_results_after_a_quarter_of_a_precisions_trials() -> None:
    ended = drive(make(declare(space={"x": uniform(0, 1)}, num_trials=32)), distance, slots=1)
    pairs = zip(*([t.config for t in ended if t.precision == name] for name in PRECISIONS), strict=True)
    assert [one == other for one, other in pairs] == [True] * 4 + [False] * 12


def test_the_same_seed_gives_the_same_search() -> None:
    here, again, there = (drive(make(declare(seed=seed)), distance) for seed in (2**33, 2**33, 2**33 + 1))
    assert here == again
    assert not {trial.config_id for trial in here} & {trial.config_id for trial in there}


def test_suggestions_are_values_of_the_space_with_its_constants() -> None:
    sweep = declare()
    for trial in drive(make(sweep), distance):
        assert list(trial.config) == list(SPACE)
        assert trial.config["k"] == 5
        assert trial.config["z"] in (0.05, 0.15, 0.25)
        assert trial.config["w"] in (1, None, "a")
        assert json.loads(json.dumps(trial.config)) == trial.config


@pytest.mark.parametrize("num_trials", [1, 2, 5])
def test_trials_are_shared_out_as_in_a_plan(num_trials: int) -> None:
    search = make(declare(num_trials=num_trials))
    assert search.total == num_trials
    ended = drive(search, distance)
    planned = plan_search(declare(searcher="random", num_trials=num_trials), PRECISIONS)
    assert [trial.trial_id for trial in ended] == [trial.trial_id for trial in planned]
    assert {trial.trial_id: trial for trial in ended} == search.trials


@pytest.mark.parametrize("num_ended", [0, 3, 7, 14])
@pytest.mark.parametrize("searcher", ["tpe", "object", "limited", "own space"])
def test_an_interrupted_search_goes_on(searcher: str, num_ended: int) -> None:
    def evaluate(trial: PlannedTrial) -> dict[str, Any] | None:
        return None if trial.index == 1 else distance(trial)

    own = own_space(x=1.0) if searcher == "own space" else None
    given: Any = OptunaSearch(space=own, metric="val_accuracy", mode="max", sampler=TPESampler(seed=1))
    given = ConcurrencyLimiter(given, max_concurrent=2) if searcher == "limited" else given
    space = {"k": 5} if own else {"x": uniform(0, 1), "k": 5}
    sweep = declare(space=space, num_trials=20, searcher=searcher if searcher == "tpe" else given)
    undisturbed = drive(make(sweep), evaluate)
    first = make(sweep)
    ended = drive(first, evaluate, most=num_ended)
    unfinished = [trial for name, trial in first.trials.items() if trial not in ended]
    assert 0 <= len(unfinished) <= 2
    second = make(sweep, rows_of(first, ended, evaluate))
    assert second.total == 20 - num_ended
    more = drive(second, evaluate)
    assert more[: len(unfinished)] == unfinished
    assert sorted(trial.trial_id for trial in ended + more) == sorted(trial.trial_id for trial in undisturbed)
    tried = [(trial.precision, trial.config_id) for trial in ended + more]
    assert len(set(tried)) == len(tried) == 20  # nothing is tried twice, though each searcher starts anew
    if num_ended == 3:  # within the random start, the search goes on as if nothing had happened
        assert (ended + more)[:6] == undisturbed[:6]
    if searcher != "limited":
        values = {
            name: {t.value for t in study.trials if t.value is not None} for name, study in studies(second).items()
        }
        for trial in [*ended, *more]:
            if trial.index != 1:
                assert distance(trial)["val_accuracy"] in values[trial.precision]


def test_a_searcher_that_cannot_be_told_of_others_trials_hears_of_them_when_it_repeats_itself() -> None:
    def evaluate(trial: PlannedTrial) -> dict[str, Any]:
        return result(float(trial.config["n"]))

    sweep = declare(space={}, searcher=Counting(), num_trials=12)
    first = make(sweep)
    ended = drive(first, evaluate, most=6)
    second = make(sweep, rows_of(first, ended, evaluate))
    more = drive(second, evaluate)
    for precision, suggester in second._suggesters.items():
        assert [t.config["n"] for t in ended + more if t.precision == precision] == list(range(6))
        searcher = suggester._searcher
        heard = {searcher.asked[name]: told for name, told in searcher.told.items()}
        assert [heard[n] for n in (0, 1, 2, 4, 5)] == [(float(n), False) for n in (0, 1, 2, 4, 5)]


def test_a_searcher_that_is_exhausted_ends_the_search() -> None:
    ended = drive(make(declare(space={}, searcher=Counting(last=2))), lambda trial: result(0.5))
    assert [trial.config["n"] for trial in ended] == [0, 0, 1, 1, 2, 2]


def test_the_object_of_the_sweep_stays_as_it_was() -> None:
    counting = Counting()
    sweep = declare(space={}, searcher=counting)
    assert preview(sweep, PRECISIONS)[1].config == {"n": 0}
    drive(make(sweep), lambda trial: result(0.5))
    assert counting.next == 0
    assert preview(sweep, PRECISIONS)[0] == 12


def test_a_limited_searcher_waits_for_its_own_results() -> None:
    limited = ConcurrencyLimiter(OptunaSearch(sampler=TPESampler(seed=0)), max_concurrent=1)
    search = make(declare(searcher=limited))
    first, second = (search.suggest(name)["spec"]["trial_id"] for name in ("a", "b"))
    assert (first, second) == ("search-0000-fp32", "search-0000-bf16-mixed")
    assert search.suggest("c") is None
    search.on_trial_complete("b", result=result(0.5))
    assert search.suggest("d")["spec"]["trial_id"] == "search-0001-bf16-mixed"
    assert search.suggest("e") is None
    search.on_trial_complete("a", error=True)
    assert search.suggest("f")["spec"]["trial_id"] == "search-0001-fp32"


def test_repeats_of_a_configuration_have_seeds_of_their_own() -> None:
    repeater = Repeater(OptunaSearch(sampler=TPESampler(seed=0)), repeat=3, set_index=False)
    ended = drive(make(declare(searcher=repeater)), distance, slots=1)
    for precision in PRECISIONS:
        trials = [trial for trial in ended if trial.precision == precision]
        assert [trial.config_id for trial in trials] == [trials[0].config_id] * 3 + [trials[3].config_id] * 3
        assert len({trial.seed for trial in trials}) == 6


def test_a_searcher_keeps_its_own_metric_and_mode() -> None:
    search = make(declare(searcher=OptunaSearch(metric="val_loss", mode="min", sampler=TPESampler(seed=0))))
    ended = drive(search, distance)
    for precision, study in studies(search).items():
        own = [distance(trial)["val_loss"] for trial in ended if trial.precision == precision]
        assert [trial.value for trial in study.trials] == own
        assert study.direction.name == "MINIMIZE"


def test_nested_and_own_spaces_are_taken_as_they_are() -> None:
    own = OptunaSearch(space=own_space(**{"model/width": 2.0}), metric="val_loss", mode="min")
    sweep = declare(space={"k": 5}, searcher=own)
    for trial in drive(make(sweep), lambda trial: result(0.5)):
        assert set(trial.config) == {"k", "model/width"}
        assert 0 <= trial.config["model/width"] <= 2


def test_as_many_trials_wait_as_there_are_free_slots_and_always_one() -> None:
    search = make_search(declare(), PRECISIONS, RANKS, {}, slots=3)
    names = iter("abcdefghijkl")
    started: dict[str, SimpleNamespace] = {}

    def ask() -> list[str]:
        """All that are to be had now."""
        asked = []
        for name in names:
            if search.suggest(name) is None:
                return asked
            asked.append(name)
        return asked

    def start(name: str) -> None:
        started[name] = SimpleNamespace(trial_id=name, status="RUNNING")
        search.started(started[name])

    assert ask() == ["a", "b", "c"]
    start("a")
    assert ask() == []  # two wait for two slots
    search.on_trial_complete("a", result=result(0.5))
    assert ask() == ["f"]
    for name in "bcf":
        start(name)
    assert ask() == ["h"]  # all slots are taken; a cluster that grows sees that another one waits
    for name in "bcf":
        started[name].status = "PAUSED"
    assert len(ask()) == 2


def test_planned_trials_leave_out_what_has_ended() -> None:
    sweep = declare(searcher="sobol", num_trials=6)
    plan = plan_search(sweep, PRECISIONS)
    statuses = ["completed", "running", "lost", "pruned"]
    past = {trial.trial_id: vars(trial) | {"status": s} for trial, s in zip(plan, statuses, strict=False)}
    changed = with_config(plan[2], {**plan[2].config, "x": 0.125})  # as pbt does
    past[changed.trial_id]["config"] = changed.config
    search = make(sweep, past)
    assert drive(search, lambda trial: result(0.5)) == [plan[1], changed, *plan[4:]]
    assert search.total == 4
