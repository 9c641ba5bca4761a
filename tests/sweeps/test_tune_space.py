"""Domains as Ray Tune's searchers see them: what Optuna suggests from a converted domain is a value of the domain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from ray.tune.search.optuna import OptunaSearch

from sweeps.search.checks import SweepError
from sweeps.search.domains import Domain, QUniform, Scalar, choice, loguniform, quniform, randint, uniform
from sweeps.search.tune_space import from_tune, to_tune


def bounds(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, high), st.floats(low, high)).filter(lambda pair: pair[0] < pair[1])


def stepped(start: int, steps: int, digits: int) -> QUniform:
    def decimal(count: int) -> float:
        return float(f"{count}e-{digits}")

    return quniform(decimal(start), decimal(start + steps), decimal(1))


domains = st.one_of(
    bounds(-1e6, 1e6).map(lambda pair: uniform(*pair)),
    bounds(1e-9, 1e6).map(lambda pair: loguniform(*pair)),
    st.builds(stepped, st.integers(-50, 50), st.integers(1, 50), st.integers(0, 4)),
    st.tuples(st.integers(-1000, 1000), st.integers(1, 1000)).map(lambda pair: randint(pair[0], pair[0] + pair[1])),
    st.lists(st.one_of(st.none(), st.integers(), st.text()), min_size=1, unique=True).map(choice),
)


def belongs(value: Scalar, domain: Domain) -> bool:
    if domain.kind == "choice":
        return any(value is known or (value == known and type(value) is type(known)) for known in domain.values)
    if domain.kind == "randint":
        return type(value) is int and domain.low <= value < domain.high
    exact = domain.kind != "quniform" or value in {
        domain.draw((step + 0.5) / (int(domain._steps) + 1)) for step in range(int(domain._steps) + 1)
    }
    return type(value) is float and domain.low <= value <= domain.high and exact


def optuna_search(space: dict[str, Domain], seed: int) -> OptunaSearch:
    search = OptunaSearch(sampler=RandomSampler(seed=seed))
    assert search.set_search_properties("m", "max", {name: to_tune(domain) for name, domain in space.items()})
    return search


@settings(max_examples=60, deadline=None)
@given(domains, st.integers(0, 2**32 - 1))
def test_what_optuna_suggests_belongs_to_the_domain(domain: Domain, seed: int) -> None:
    search = optuna_search({"x": domain}, seed)
    for number in range(5):
        suggested = search.suggest(str(number))["x"]
        assert belongs(from_tune("searcher, x", suggested, domain), domain)


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        (quniform(0.05, 0.25, 0.1), {0.05, 0.15, 0.25}),
        (quniform(-0.2, 0.1, 0.1), {-0.2, -0.1, 0.0, 0.1}),
        (randint(3, 6), {3, 4, 5}),
        (choice(["a", None, False, 2, 0.5]), {"a", None, False, 2, 0.5}),
    ],
)
def test_every_value_of_a_discrete_domain_can_be_suggested(domain: Domain, values: set[Scalar]) -> None:
    search = optuna_search({"x": domain}, seed=0)
    drawn = [from_tune("searcher, x", search.suggest(str(number))["x"], domain) for number in range(200)]
    assert set(drawn) == values
    assert min(drawn.count(value) for value in values) > 200 / len(values) / 2


def test_a_logarithmic_domain_stays_logarithmic() -> None:
    search = optuna_search({"x": loguniform(1e-6, 1)}, seed=0)
    low = sum(search.suggest(str(number))["x"] < 1e-3 for number in range(200))
    assert 70 < low < 130


@pytest.mark.parametrize(
    ("suggested", "domain", "plain"),
    [
        (np.float32(0.5), uniform(0, 1), 0.5),
        (np.int64(3), uniform(0, 4), 3.0),
        (3.0, randint(0, 4), 3),
        (np.bool_(True), choice([True, False]), True),
        (np.str_("a"), choice(["a"]), "a"),
        (0.30000000000000004, quniform(0, 1, 0.1), 0.3),
        (np.int64(7), None, 7),
        (None, None, None),
    ],
)
def test_suggestions_become_plain(suggested: object, domain: Domain | None, plain: Scalar) -> None:
    value = from_tune("searcher, x", suggested, domain)
    assert value == plain
    assert type(value) is type(plain)


@pytest.mark.parametrize("suggested", [float("nan"), [1], np.ones(2), {1}])
def test_what_is_no_scalar_is_refused(suggested: object) -> None:
    with pytest.raises(SweepError, match=r"^searcher, x: must be a finite number"):
        from_tune("searcher, x", suggested, None)
