import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.search.checks import SweepError
from sweeps.search.domains import choice, loguniform, quniform, randint, scalar, uniform

NAN, INF = float("nan"), float("inf")
units = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-300, 1e300)


@pytest.mark.parametrize("domain", [uniform, loguniform])
@pytest.mark.parametrize("bounds", [(2, 1), (1, 1), (NAN, 1), (1, NAN), (1, INF), (True, 2), ("1", 2), (None, 2)])
def test_wrong_bounds_are_refused(domain: type, bounds: tuple[object, object]) -> None:
    with pytest.raises(SweepError, match=f"^{domain.kind}"):  # type: ignore[attr-defined]
        domain(*bounds)


@pytest.mark.parametrize("low", [0, -1, -0.0])
def test_loguniform_needs_a_positive_low(low: float) -> None:
    with pytest.raises(SweepError, match=r"loguniform\.low: must be a finite number above 0"):
        loguniform(low, 1)


@pytest.mark.parametrize("bounds", [(1, 1), (2, 1), (0.5, 2), (1, 2.0), (True, 3), ("1", 3)])
def test_wrong_randint_bounds_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(SweepError, match=r"^randint"):
        randint(*bounds)


@pytest.mark.parametrize("bounds", [(0, 1, 0), (0, 1, -0.1), (0, 1, 0.3), (1, 0, 0.1), (0, 1, NAN)])
def test_wrong_quniform_bounds_are_refused(bounds: tuple[float, float, float]) -> None:
    with pytest.raises(SweepError, match=r"^quniform"):
        quniform(*bounds)


@pytest.mark.parametrize("values", [[], (), "ab", 3, [[1]], [NAN], [{}], {1, 2}])
def test_wrong_choices_are_refused(values: object) -> None:
    with pytest.raises(SweepError, match=r"^choice\.values"):
        choice(values)  # type: ignore[arg-type]


def test_draws_by_hand() -> None:
    assert uniform(2, 4).draw(0.25) == 2.5
    assert loguniform(1e-4, 1e-2).draw(0.5) == 1e-3
    assert loguniform(1e-4, 1e-2).draw(0) == 1e-4
    assert [randint(1, 4).draw(unit) for unit in (0, 0.33, 0.34, 0.67, 1 - 2**-53)] == [1, 1, 2, 3, 3]
    assert [choice(["a", "b"]).draw(unit) for unit in (0, 0.49, 0.5, 1 - 2**-53)] == ["a", "a", "b", "b"]
    assert [quniform(0, 0.3, 0.1).draw(unit) for unit in (0, 0.25, 0.5, 0.75)] == [0.0, 0.1, 0.2, 0.3]


def test_a_draw_does_not_depend_on_the_decimal_context() -> None:
    from decimal import Context, localcontext

    expected = loguniform(1e-5, 1e-1).draw(0.3)
    with localcontext(Context(prec=3)):
        assert loguniform(1e-5, 1e-1).draw(0.3) == expected


@given(st.tuples(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308)).filter(lambda pair: pair[0] < pair[1]), units)
def test_uniform_stays_within_bounds(bounds: tuple[float, float], unit: float) -> None:
    assert bounds[0] <= uniform(*bounds).draw(unit) <= bounds[1]


@given(st.tuples(positive, positive).filter(lambda pair: pair[0] < pair[1]), units)
def test_loguniform_is_the_geometric_interpolation(bounds: tuple[float, float], unit: float) -> None:
    low, high = bounds
    value = loguniform(low, high).draw(unit)
    assert low <= value <= high
    assert math.log(value) == pytest.approx(math.log(low) + unit * (math.log(high) - math.log(low)), rel=1e-9, abs=1e-9)


@given(st.integers(-(10**20), 10**20), st.integers(1, 2**53), units)
def test_randint_excludes_high(low: int, width: int, unit: float) -> None:
    assert low <= randint(low, low + width).draw(unit) < low + width


@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(1, 6), units)
def test_quniform_gives_exact_decimals(start: int, steps: int, digits: int, unit: float) -> None:
    def decimal(count: int) -> float:
        return float(f"{count}e-{digits}")

    value = quniform(decimal(start), decimal(start + steps), decimal(1)).draw(unit)
    assert value in [decimal(start + step) for step in range(steps + 1)]


def test_the_nearest_step_is_exact_and_within_bounds() -> None:
    domain = quniform(0.05, 0.35, 0.1)
    assert [domain.nearest(value) for value in (-1, 0.05, 0.15000000000000002, 0.24, 0.3, 7)] == [
        *(0.05, 0.05, 0.15),
        *(0.25, 0.25, 0.35),
    ]


def test_numbers_of_numpy_become_plain() -> None:
    assert type(scalar("x", np.int64(3))) is int
    assert type(scalar("x", np.float64(0.5))) is float
    assert type(choice([np.float32(0.5)]).values[0]) is float
    assert type(uniform(np.float64(0), 1).low) is float


def test_domains_are_values() -> None:
    assert choice([1, 2]) == choice((1, 2))
    assert hash(uniform(0, 1)) == hash(uniform(0.0, 1.0))
    assert uniform(0, 1) != loguniform(0.5, 1)
