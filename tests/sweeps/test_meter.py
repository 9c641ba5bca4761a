"""What runs cost, with a clock that is set by hand; prices are per hour, so that hours are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import Sweep
from sweeps.engine.meter import Meter
from sweeps.engine.prices import PricedNode
from sweeps.engine.search_budget import SearchBudget

HALF = {"num_cpus": 2, "num_gpus": 0}
NODES = {"small": PricedNode(4, 0), "large": PricedNode(16, 0), "gpus": PricedNode(32, 4)}


class Clock:
    """Hours, as seconds."""

    hours = 0.0

    def __call__(self) -> float:
        return 3600 * self.hours


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, prices=8.0, **earlier) -> Meter:
    return Meter(prices, find=NODES.get, clock=clock, **earlier)


def test_share_times_price_times_hours(clock):
    meter = make(clock)
    meter.begins("a", HALF)
    clock.hours = 1.5
    assert meter.usd("a") is None  # nobody knows where it is
    meter.is_at("a", "Xeon", ["small"])
    assert meter.usd("a") == pytest.approx(0.5 * 8 * 1.5)
    clock.hours = 2
    assert meter.usd("a") == pytest.approx(8)
    meter.rests("a")
    clock.hours = 9
    meter.rests("a")
    assert meter.usd("a") == meter.spent_usd == pytest.approx(8)
    assert meter.kept() == {}
    assert meter.usd("other") is None


def test_workers_add_up_each_by_its_node(clock):
    meter = make(clock)
    meter.begins("a", HALF)
    meter.is_at("a", "Xeon", ["small", "large", "large"])
    clock.hours = 1
    assert meter.usd("a") == pytest.approx(8 * (2 / 4 + 2 / 16 + 2 / 16))
    assert meter.charge({"num_cpus": 1, "num_gpus": 2}, "X", ["gpus"], 1800) == pytest.approx(8 * 0.5 / 2)
    assert meter.spent_usd == pytest.approx(8)


def test_attempts_that_were_lost_cost_as_well_and_pauses_do_not(clock):
    meter = make(clock)
    meter.begins("a", HALF)
    clock.hours = 1
    meter.rests("a")  # lost before its first report
    clock.hours = 2
    meter.begins("a", HALF)
    clock.hours = 3
    meter.is_at("a", "Xeon", ["large"])
    meter.rests("a")  # paused
    clock.hours = 7
    meter.begins("a", HALF)
    clock.hours = 8
    assert meter.usd("a") == pytest.approx(8 * 3 / 8)
    meter.is_at("a", "Xeon", ["small"])  # this attempt alone runs there
    assert meter.usd("a") == pytest.approx(8 * (2 / 8 + 1 / 2))


def test_a_device_without_a_price_has_no_cost_but_a_budget_counts_it(clock):
    meter = make(clock, {"H100": 12.0, "A10G": 2.0})
    for name, device in (("a", "NVIDIA A10G"), ("b", "NVIDIA L4"), ("c", None)):
        meter.begins(name, {"num_cpus": 1, "num_gpus": 1})
        meter.is_at(name, device, ["gpus"])
    clock.hours = 4
    assert meter.usd("a") == pytest.approx(2)
    assert meter.usd("b") is meter.usd("c") is None
    assert meter.spent_usd == pytest.approx(2 + 12 + 12)
    assert list(meter.unpriced) == ["NVIDIA L4", "an unknown device"]
    meter.rests("b")
    meter.begins("b", {"num_cpus": 1, "num_gpus": 1})
    meter.is_at("b", "NVIDIA A10G", ["gpus"])
    clock.hours = 5
    assert meter.usd("b") is None  # for good: its first attempt had no price


def test_what_nobody_knows_stays_unknown(clock):
    meter = make(clock)
    meter.begins("a", HALF)
    meter.is_at("a", "Xeon", ["gone"])
    meter.begins("b", HALF)
    meter.is_at("b", "Xeon", [])
    clock.hours = 1
    assert meter.usd("a") is meter.usd("b") is None
    assert meter.charge(HALF, "Xeon", ["small"], None) is None
    assert meter.charge(HALF, "Xeon", ["gone"], 3.0) is None
    nothing = Meter(None, find=NODES.get, clock=clock, before={"a": (1.0, 0.0)})
    nothing.begins("a", HALF)
    nothing.is_at("a", "Xeon", ["small"])
    assert nothing.usd("a") is nothing.charge(HALF, "Xeon", ["small"], 3.0) is None
    assert nothing.spent_usd == 0
    assert not nothing.unpriced


def test_a_run_that_goes_on_counts_what_it_cost_before(clock):
    before = {"a": (2.5, 0.0), "b": (None, 0.0), "c": (1.0, 0.0), "d": (1.0, 3600.0)}
    meter = make(clock, before=before, run_s=7200, spent_usd=99)
    for name in "abd":
        meter.begins(name, HALF)
        meter.is_at(name, "Xeon", ["small"])
    clock.hours = 1
    assert meter.usd("a") == pytest.approx(2.5 + 4)
    assert meter.usd("b") is None
    assert meter.usd("c") == 1.0
    assert meter.usd("d") == pytest.approx(1 + 4 + 4)
    assert meter.spent_usd == pytest.approx(99 + 12)
    assert meter.run_s == pytest.approx(3 * 3600)


def test_a_run_that_has_not_reported_counts_as_the_dearest(clock):
    meter = make(clock)
    meter.begins("a", HALF)
    meter.begins("b", HALF)
    clock.hours = 1
    assert meter.spent_usd == 0
    assert meter.hourly(2) == ""
    meter.is_at("a", "Xeon", ["small"])
    assert meter.spent_usd == pytest.approx(4 + 4)
    assert meter.hourly(2) == "at most $8.00 an hour"


@given(
    spans=st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.floats(0, 10)), min_size=1, max_size=8),
    price=st.floats(1e-3, 1e3),
    nodes=st.lists(st.sampled_from(sorted(NODES)), min_size=1, max_size=4),
)
def test_costs_add_up_over_time_and_workers(spans, price, nodes):
    """However a run's time falls into attempts, and wherever it first reports, its cost is that of the whole."""
    clock = Clock()
    meter = make(clock, price)
    apart = [make(clock, price) for _ in nodes]
    seen = 0.0
    for index, (hours, reports, pause) in enumerate(spans):
        for each in (meter, *apart):
            each.begins("a", HALF)
        clock.hours += hours
        for each, places in ((meter, nodes), *((each, [node]) for each, node in zip(apart, nodes, strict=True))):
            if reports or index == len(spans) - 1:
                each.is_at("a", "Xeon", places)
            each.rests("a")
        clock.hours += pause
        usd = meter.usd("a")
        assert usd is None or usd >= seen >= 0
        seen = usd or seen
    share = sum(2 / NODES[node].cpus for node in nodes)
    hours = sum(hours for hours, _, _ in spans)
    assert meter.usd("a") == pytest.approx(price * share * hours)
    assert meter.usd("a") == pytest.approx(sum(each.usd("a") for each in apart))


def declare(**fields):
    return Sweep(name="s", task="t:b", space={}, usd_per_hour=8.0, **fields)


def test_a_budget_is_spent_once_and_for_all(clock):
    meter = make(clock, run_s=3600, spent_usd=4)
    neither = SearchBudget(declare(), meter)
    money = SearchBudget(declare(budget_usd=10, budget_hours=9), meter)
    hours = SearchBudget(declare(budget_usd=99, budget_hours=2.5), meter)
    meter.begins("a", HALF)
    meter.is_at("a", "Xeon", ["small"])
    clock.hours = 1.49
    assert not money.is_spent()
    assert not hours.is_spent()
    clock.hours = 1.5
    assert money.is_spent()
    assert hours.is_spent()
    assert (money.spent, hours.spent) == ("budget_usd 10", "budget_hours 2.5")
    clock.hours = 99
    assert money.is_spent()
    assert money.spent == "budget_usd 10"
    assert not neither.is_spent()
    assert neither.spent == ""
