"""Whatever is given: it is taken, or refused in one line; nothing else happens."""

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps import Confirm, Sweep, SweepError
from sweeps.engine.flags import build_parser, naming_flags, parse_run
from sweeps.search.configurations import config_id, read_points, sample
from sweeps.search.domains import DOMAINS
from sweeps.search.space import from_json, parse_domain, space_to_json
from trainables.hyperparameters import RESERVED, Hyperparameters
from trainables.ladder import LADDER

FLAGS = sorted(name for action in build_parser()._actions for name in action.option_strings)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 2**53, 2**64, 5e-324, 1.7e308, True, False]),
)
WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*LADDER, *FLAGS, *DOMAINS, *RESERVED, "asha", "grid", "max", "probe", "nan", "inf", "a.py:f"]),
    NUMBERS.filter(lambda number: abs(number) < 10**20 or isinstance(number, float)).map(str),
)
WRITTEN = st.one_of(WORDS, st.lists(WORDS, max_size=3).map(",".join), st.lists(WORDS, max_size=4).map(":".join))
FLAG = st.tuples(st.sampled_from(FLAGS), WRITTEN).map(list)
SPACE = st.tuples(st.sampled_from([*RESERVED, "width", ""]), WRITTEN).map(lambda pair: ["--space", "=".join(pair)])
ARGV = st.lists(st.one_of(FLAG, SPACE, WRITTEN.map(lambda word: [word])), max_size=5)
KINDS = st.sampled_from(list(DOMAINS.values()))
SCALARS = st.one_of(st.none(), st.text(max_size=5), NUMBERS)


def one_line(error: Exception) -> None:
    """It names the field, the condition, the value and the remedy."""
    assert re.fullmatch(r"[^\n]+?: .+, got .*; .+", naming_flags(str(error))), repr(str(error))
    assert len(str(error).splitlines()) == 1, repr(str(error))


def can_be_run(sweep: Sweep) -> None:
    """What a sweep that was taken has to stand: it is written down and read, and configurations are drawn from it."""
    written = json.loads(json.dumps(sweep.to_json()))
    assert {name: from_json(value) for name, value in written["space"].items()} == dict(sweep.space)
    for index in range(3):
        config = sample(sweep.space, sweep.seed, index)
        assert len(config_id(config)) == 8
        Hyperparameters.of(config)


@settings(max_examples=300, deadline=None)
@given(ARGV)
def test_any_words_after_ampsweep_run(argv: list[list[str]]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            can_be_run(parse_run(["tasks.py:build", *(word for words in argv for word in words)]))
        except SweepError as error:
            one_line(error)
        except SystemExit:
            assert {"--help", "-h"} & {word for words in argv for word in words}


@settings(max_examples=300, deadline=None)
@given(WRITTEN)
def test_any_domain_of_a_flag(written: str) -> None:
    try:
        parsed = parse_domain(written)
    except SweepError as error:
        one_line(error)
        return
    data = space_to_json({"a": parsed})["a"]
    assert from_json(json.loads(json.dumps(data))) == parsed


@st.composite
def domains(draw: st.DrawFn) -> Any:
    """A domain of any kind with any bounds, where it takes them."""
    kind = draw(KINDS)
    bounds = [draw(SCALARS) for _ in dataclasses.fields(kind)]
    try:
        return kind(draw(st.lists(SCALARS, max_size=3))) if kind.kind == "choice" else kind(*bounds)
    except SweepError as error:
        one_line(error)
        return bounds


VALUES = st.one_of(
    SCALARS,
    st.binary(max_size=3),
    st.lists(WORDS, max_size=3),
    st.lists(st.sampled_from(list(LADDER)), max_size=3).map(tuple),
    st.dictionaries(st.one_of(WORDS, NUMBERS), st.one_of(SCALARS, domains()), max_size=3),
    st.dictionaries(st.sampled_from(RESERVED), st.one_of(SCALARS, domains()), max_size=3),
    st.just(Path("a")),
    st.just(object()),
    st.just(Confirm(num_seeds=2)),
)
FIELDS = [field.name for field in dataclasses.fields(Sweep)]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_any_fields_of_a_sweep(fields: dict[str, Any]) -> None:
    known = {"name": "digits", "task": "trainables.tasks.digits:build", "space": {"width": 4}}
    try:
        sweep = Sweep(**known | fields)
    except SweepError as error:
        one_line(error)
    else:
        can_be_run(sweep)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Confirm)]), VALUES, max_size=2))
def test_any_fields_of_a_confirmation(fields: dict[str, Any]) -> None:
    try:
        json.dumps(dataclasses.asdict(Confirm(**fields)))
    except SweepError as error:
        one_line(error)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(["precision", "seed", *RESERVED]), st.text(max_size=5)), inner),
    ),
    max_leaves=6,
)
LINES = st.lists(st.one_of(JSON.map(json.dumps).map(str.encode), st.binary(max_size=20)), max_size=4)


@settings(max_examples=200, deadline=None)
@given(LINES)
def test_any_lines_of_points(tmp_path_factory: Any, lines: list[bytes]) -> None:
    file = tmp_path_factory.getbasetemp() / "points.jsonl"
    file.write_bytes(b"\n".join(lines))
    try:
        points = read_points(str(file))
    except SweepError as error:
        one_line(error)
        return
    for point in points:
        Hyperparameters.of(point)
        json.dumps(point, allow_nan=False).encode()
