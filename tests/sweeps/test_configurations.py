import hashlib
import itertools
import json
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from sweeps.search.checks import SweepError
from sweeps.search.configurations import config_id, grid, read_points, sample, samples, sobol, split_point, stream
from sweeps.search.space import choice, loguniform, quniform, randint, uniform

ROOT = Path(__file__).parents[2]
SPACE = {
    "learning_rate": loguniform(1e-4, 1e-2),
    "dropout": uniform(0, 0.5),
    "warmup": quniform(0, 0.3, 0.1),
    "layers": randint(1, 5),
    "width": choice([16, 32, 64]),
    "optimizer": "adamw",
}
EXPECTED = {
    "learning_rate": 0.006926303744078427,
    "dropout": 0.06728699069864263,
    "warmup": 0.1,
    "layers": 2,
    "width": 32,
    "optimizer": "adamw",
}
"""Configuration 1 of seed 0, for ever: a change here changes every user's sweeps."""


def test_a_configuration_never_changes() -> None:
    assert sample(SPACE, seed=0, index=1) == EXPECTED


def test_other_processes_draw_the_same() -> None:
    program = (
        "from sweeps.search.configurations import sample; from sweeps.search.space import loguniform\n"
        "print(repr(sample({'learning_rate': loguniform(1e-4, 1e-2)}, 0, 1)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "77", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{'learning_rate': 0.006926303744078427}"


def test_the_stream_is_the_documented_hash() -> None:
    digest = hashlib.sha256(b'["configuration", 0, 1, "dropout"]').hexdigest()
    assert stream("configuration", 0, 1, "dropout") == int(digest[:16], 16)
    unit = (int(digest[:16], 16) >> 11) / 2**53
    assert sample(SPACE, 0, 1)["dropout"] == pytest.approx(0.5 * unit, rel=1e-15)


def test_keys_that_join_alike_differ() -> None:
    assert len({stream("a", 1, 11), stream("a", 11, 1), stream("a1", 1, 1), stream("a", "1", 11)}) == 4


def test_parameters_are_independent_of_each_other() -> None:
    alone = sample({"dropout": SPACE["dropout"]}, 3, 5)
    reordered = sample(dict(reversed(SPACE.items())), 3, 5)
    assert alone["dropout"] == sample(SPACE, 3, 5)["dropout"]
    assert reordered == sample(SPACE, 3, 5)


def test_seed_and_index_both_matter() -> None:
    draws = {sample(SPACE, seed, index)["learning_rate"] for seed in range(10) for index in range(10)}
    assert len(draws) == 100


def test_samples_count_from_zero() -> None:
    configurations = samples(SPACE, 7)
    assert [next(configurations) for _ in range(3)] == [sample(SPACE, 7, index) for index in range(3)]


def test_draws_cover_the_space_evenly() -> None:
    drawn = [sample(SPACE, 0, index) for index in range(3000)]
    widths = [sum(config["width"] == width for config in drawn) for width in (16, 32, 64)]
    layers = [sum(config["layers"] == count for config in drawn) for count in (1, 2, 3, 4)]
    low_decade = sum(float(str(config["learning_rate"])) < 1e-3 for config in drawn)
    # Five standard deviations of a binomial with n = 3000 are below 150.
    assert all(abs(count - 1000) < 150 for count in widths)
    assert all(abs(count - 750) < 150 for count in layers)
    assert abs(low_decade - 1500) < 150


def test_grid_varies_the_last_parameter_fastest() -> None:
    space = {"width": choice([16, 32]), "optimizer": "adamw", "bias": choice([True, False])}
    assert [tuple(config.values()) for config in grid(space)] == [
        (16, "adamw", True),
        (16, "adamw", False),
        (32, "adamw", True),
        (32, "adamw", False),
    ]
    assert next(grid(space)) == {"width": 16, "optimizer": "adamw", "bias": True}


def test_grid_names_the_parameter_that_it_cannot_list() -> None:
    with pytest.raises(SweepError, match=r"^space\['dropout'\]: must be a choice.*'uniform:0.0:0.5'"):
        grid({"width": choice([1]), "dropout": uniform(0, 0.5)})


def test_grid_of_nothing_is_one_configuration() -> None:
    assert list(grid({})) == [{}]


def first(space: dict, seed: int, count: int) -> list[dict]:
    return list(itertools.islice(sobol(space, seed), count))


@given(st.integers(0, 2**80), st.integers(1, 20), st.integers(0, 20))
def test_more_configurations_of_sobol_extend_fewer(seed: int, count: int, more: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scipy warns of numbers of points that are no power of 2
        assert first(SPACE, seed, count + more)[:count] == first(SPACE, seed, count)


def test_sobol_is_scipys_scrambled_sequence() -> None:
    names = sorted(set(SPACE) - {"optimizer"})
    points = qmc.Sobol(len(names), rng=np.random.default_rng(stream("sobol", 5))).random(32)
    assert first(SPACE, 5, 32) == [
        {name: SPACE[name].draw(point[names.index(name)]) if name in names else "adamw" for name in SPACE}
        for point in points.tolist()
    ]


def test_sobol_spreads_evenly_over_every_parameter() -> None:
    space = {"width": choice([8, 16, 32, 64]), "layers": randint(0, 8), "rate": loguniform(1e-4, 1), "seed_of": "x"}
    drawn = first(space, 0, 16)
    assert Counter(config["width"] for config in drawn) == dict.fromkeys([8, 16, 32, 64], 4)
    assert Counter(config["layers"] for config in drawn) == dict.fromkeys(range(8), 2)
    assert Counter(np.floor(np.log10(config["rate"])) for config in drawn) == dict.fromkeys([-4, -3, -2, -1], 4)


def test_sobol_depends_on_space_and_seed_but_not_on_constants_and_order() -> None:
    reordered = {"constant": 1, **dict(reversed(SPACE.items()))}
    assert [config | {"constant": 1} for config in first(SPACE, 7, 8)] == first(reordered, 7, 8)
    rates = {config["learning_rate"] for seed in (0, 1, 2**32, 2**32 + 1) for config in first(SPACE, seed, 8)}
    assert len(rates) == 32
    assert first({"optimizer": "adamw"}, 0, 3) == [{"optimizer": "adamw"}] * 3


def test_only_sobol_loads_scipy() -> None:
    program = (
        "import sys; from sweeps import Sweep, loguniform; from sweeps.search.plan import plan_search\n"
        "sweep = Sweep(name='s', task='t:b', space={'lr': loguniform(1e-4, 1e-2)}, searcher=sys.argv[1])\n"
        "before = 'scipy' in sys.modules; plan_search(sweep, ['fp32']); print(before, 'scipy' in sys.modules)"
    )

    def loaded(searcher: str) -> str:
        words = [sys.executable, "-c", program, searcher]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    assert loaded("random") == "False False"
    assert loaded("sobol") == "False True"


def test_config_id_by_hand() -> None:
    expected = hashlib.sha256(b'{"a":64,"b":0.001}').hexdigest()[:8]
    assert config_id({"b": 1e-3, "a": 64}) == expected == config_id({"a": 64, "b": 0.001})


def test_config_id_tells_types_apart() -> None:
    values = [64, 64.0, "64", True, 1, None, "None"]
    assert len({config_id({"a": value}) for value in values}) == len(values)


@given(
    st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
)
def test_config_id_survives_json_and_order(config: dict[str, int | float | str]) -> None:
    again = json.loads(json.dumps(dict(reversed(config.items()))))
    assert config_id(again) == config_id(config)
    assert len(config_id(config)) == 8


def write(folder: Path, text: str) -> str:
    path = folder / "points.jsonl"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_points_are_read_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '\ufeff{"lr": 0.1, "width": 16}\r\n\n  \n{"width": 32, "lr": 1, "precision": "bf16-mixed", "seed": 7}\n'
        '{"lr": 0.1, "width": 16, "precision": null, "seed": null}\n',
    )
    points = read_points(path)
    assert [split_point(point) for point in points] == [
        ({"lr": 0.1, "width": 16}, None, None),
        ({"lr": 1, "width": 32}, "bf16-mixed", 7),
        ({"lr": 0.1, "width": 16}, None, None),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "points, line 3: must be a JSON object"),
        ("[1]", "points, line 3: must be a JSON object"),
        ('{"lr": NaN}', "points, line 3, lr: must be a finite number"),
        ('{"lr": [1]}', "points, line 3, lr: must be a finite number"),
        ('{"lr": 1, "precision": "bf61-mixed"}', "points, line 3, precision: .*did you mean 'bf16-mixed'"),
        ('{"lr": 1, "seed": -1}', "points, line 3, seed: "),
        ('{"lr": 1, "seed": 1.5}', "points, line 3, seed: "),
        ('{"lr": 1, "seed": 4294967296}', "points, line 3, seed: must be a whole number of at most 4294967295"),
        ('{"learning_rate": 1}', "points, line 3: must name the first line's hyperparameters, got 'learning_rate'"),
        ('{"lr": 1, "width": 2}', "points, line 3: must name the first line's hyperparameters, got 'lr, width'"),
        ("[" * 100_000, "points, line 3: must be a JSON object"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, '{"lr": 0.1}\n\n' + line + "\n")
    with pytest.raises(SweepError, match=r"^" + message) as caught:
        read_points(path)
    assert "\n" not in str(caught.value)


def test_files_without_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="must hold at least one line"):
        read_points(write(tmp_path, "\n\n"))
    with pytest.raises(SweepError, match="must be a readable file"):
        read_points(str(tmp_path / "absent.jsonl"))
    with pytest.raises(SweepError, match="must be a readable file"):
        read_points(str(tmp_path))
    (tmp_path / "points.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SweepError, match="must be a readable file"):
        read_points(str(tmp_path / "points.jsonl"))
