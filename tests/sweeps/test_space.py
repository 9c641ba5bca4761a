import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.search.checks import SweepError
from sweeps.search.domains import Domain, Scalar
from sweeps.search.space import (
    check_space,
    choice,
    from_json,
    loguniform,
    parse_domain,
    parse_scalar,
    quniform,
    randint,
    space_to_json,
    uniform,
)

ROOT = Path(__file__).parents[2]
DOMAINS = [
    uniform(-1, 2.5),
    loguniform(1e-5, 1e-3),
    quniform(0, 0.3, 0.1),
    randint(-1, 5),
    choice([128, 0.5, "adamw", True]),
]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("loguniform:1e-5:1e-3", loguniform(1e-5, 1e-3)),
        ("uniform:0:1", uniform(0, 1)),
        ("uniform:-2:-1", uniform(-2, -1)),
        ("quniform:0:1:0.25", quniform(0, 1, 0.25)),
        ("randint:1:5", randint(1, 5)),
        ("choice:128,256", choice([128, 256])),
        ("choice:adamw, sgd,0.1,true", choice(["adamw", "sgd", 0.1, True])),
        ("choice:one", choice(["one"])),
        ("64", 64),
        ("64.0", 64.0),
        ("1e-3", 0.001),
        ("False", False),
        ("adamw", "adamw"),
        ("none", "none"),
        ("org/model:main", "org/model:main"),
        ("host:8080", "host:8080"),
        ("key: one, two", "key: one, two"),
        ("s3://bucket/data", "s3://bucket/data"),
    ],
)
def test_parse(written: str, expected: Domain | Scalar) -> None:
    parsed = parse_domain(written)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    "written",
    [
        "loguniform:1e-5",
        "loguniform:0:1",
        "uniform",
        "uniform:",
        "uniform:0:1:2",
        "uniform:a:b",
        "uniform:1:0",
        "randint:1:2.5",
        "choice:",
        "choice",
        "choice:1,,2",
        "logunifrom:1:2",
        "chocie:1,2",
        "normal:0:1",
        "lognormal:-1:2e-3",
        "categorical:a,b",
        "nan",
        "inf",
        "choice:nan",
        "",
    ],
)
def test_parse_refuses(written: str) -> None:
    with pytest.raises(SweepError) as caught:
        parse_domain(written)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_a_domain_survives_json_and_writing(domain: Domain) -> None:
    assert from_json(json.loads(json.dumps(domain.to_json()))) == domain
    assert parse_domain(str(domain)) == domain


def test_json_by_hand() -> None:
    space = {"learning_rate": loguniform(1e-5, 1e-3), "width": choice([16, 32]), "optimizer": "adamw"}
    assert space_to_json(space) == {
        "learning_rate": {"domain": "loguniform", "low": 1e-5, "high": 1e-3},
        "width": {"domain": "choice", "values": [16, 32]},
        "optimizer": "adamw",
    }


@pytest.mark.parametrize("data", [{"domain": "normal"}, {}, {"domain": "uniform", "low": 1}, [1]])
def test_from_json_refuses(data: object) -> None:
    with pytest.raises(SweepError):
        from_json(data)


@given(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_survive_writing(bounds: tuple[float, float]) -> None:
    low, high = min(bounds), max(bounds)
    if low < high:
        assert parse_domain(str(uniform(low, high))) == uniform(low, high)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_scalars_survive_writing(value: int | float | bool) -> None:
    parsed = parse_scalar(str(value))
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("name", ["precision", "seed"])
def test_reserved_names_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(SweepError, match=f"^space: cannot hold the precision or the seed, got '{name}'; "):
        check_space({name: choice([1])})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rate", uniform(-0.1, 0.1), "must be a finite number of at least 0, got -0.1"),
        ("learning_rate", choice([0.1, True]), "must be a finite number of at least 0, got True"),
        ("batch_size", choice([16, 0]), "must be a whole number of at least 1, got 0"),
        ("batch_size", quniform(16, 64, 16), "must be a whole number of at least 1, got 16.0"),
        ("batch_size", randint(0, 2), "must be a whole number of at least 1, got 0"),
        ("warmup_frac", uniform(0, 1.1), "must be a number from 0 to 1, got 1.1"),
        ("optimizer", "lion", "must be one of adamw, adam, sgd, got 'lion'"),
    ],
)
def test_values_that_the_training_loop_cannot_use_are_refused(name: str, value: Any, says: str) -> None:
    with pytest.raises(SweepError, match=rf"^space\['{name}'\]: {says}; the training loop reads {name}"):
        check_space({"width": 0, name: value})


@pytest.mark.parametrize(
    "space",
    [
        {"batch_size": randint(8, 17), "accumulate_steps": choice([1, 2])},
        {"batch_size": choice([8, 12]), "accumulate_steps": choice([4, 8])},
        {"accumulate_steps": randint(1, 4)},
        {"batch_size": 6, "accumulate_steps": 4},
    ],
)
def test_batches_that_an_accumulation_does_not_divide_are_refused(space: Any) -> None:
    with pytest.raises(SweepError, match=r"^space\['accumulate_steps'\]: must divide the batch_size of \d+, got \d"):
        check_space(space)


def test_values_that_the_training_loop_can_use_are_taken() -> None:
    space = {
        "learning_rate": loguniform(1e-5, 1e300),
        "weight_decay": choice([0, 0.1]),
        "batch_size": choice([8, 16]),
        "accumulate_steps": choice([1, 2, 8]),
        "max_grad_norm": choice([None, 1.0]),
        "warmup_frac": quniform(0, 1, 0.25),
        "lr_schedule": "linear",
        "optimizer": choice(["sgd", "adam"]),
        "depth": uniform(-1, 1),
    }
    assert check_space(space) == space


def test_a_list_in_place_of_a_domain_is_explained() -> None:
    with pytest.raises(SweepError, match=r"space\['width'\].*write choice\(\[16, 32\]\)"):
        check_space({"width": [16, 32]})


@pytest.mark.parametrize(
    "space",
    [
        None,
        [("a", 1)],
        {1: 2},
        {"": 1},
        {"a\n": 1},
        {"a": float("nan")},
        {"a": object()},
        {"a": "\ud800"},
        {"a": 10**400},
    ],
)
def test_wrong_spaces_are_refused(space: object) -> None:
    with pytest.raises(SweepError, match=r"^space"):
        check_space(space)


def test_check_copies() -> None:
    given_space = {"a": 1}
    checked = check_space(given_space)
    given_space["a"] = 2
    assert checked == {"a": 1}


def test_declarations_import_nothing_heavy() -> None:
    program = (
        "import sys, sweeps.engine.flags, sweeps.search.plan, sweeps.search.successive_halving\n"
        "print({'torch', 'ray', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
