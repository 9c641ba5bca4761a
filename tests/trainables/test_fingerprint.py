"""Fingerprints of functions: the same in another process for the same code and data, and for no other."""

import functools
import os
import subprocess
import sys
from array import array
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trainables.fingerprint import fingerprint, reached_by

PROGRAM = """
import functools
import torch
from torch import nn
from trainables.fingerprint import fingerprint

def helper(name):
    return name in {"relu", "gelu", "tanh"} and (1, 2)

class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layer = nn.Linear(4, hidden)
    def forward(self, x):
        return self.layer(x) if helper("relu") else SHIFT

SHIFT = 3
data = torch.arange(6.0)
def around(scale):
    def make(config, depth=2):
        return Net(config["hidden"]), scale, data, functools.partial(helper, name="gelu")
    return make
print(fingerprint(around(0.5)))
"""


def printed(program: str, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_another_process_finds_the_same_wherever_the_code_stands() -> None:
    assert printed(PROGRAM, "1") == printed("# moved\n\n" + PROGRAM, "2") != ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(1, 2)", "(1, 3)"),
        ('"tanh"', '"silu"'),
        ("nn.Linear(4", "nn.Linear(5"),
        ("self.layer(x)", "self.layer(-x)"),
        ("SHIFT = 3", "SHIFT = 4"),
        ("arange(6.0)", "arange(6)"),
        ("arange(6.0)", "arange(6.0) + 1"),
        ("depth=2", "depth=3"),
        ("around(0.5)", "around(0.25)"),
        ('name="gelu"', 'name="tanh"'),
    ],
)
def test_any_other_code_or_data_differs(old: str, new: str) -> None:
    def of(program: str) -> str:
        found: list[str] = []
        exec(program.replace("\nprint(", "\nkeep("), {"__name__": "__main__", "keep": found.append})
        return found[0]

    assert old in PROGRAM
    assert of(PROGRAM) == of(PROGRAM)
    assert of(PROGRAM.replace(old, new)) != of(PROGRAM)


class Held:
    def __init__(self, **values: Any) -> None:
        self.__dict__ |= values


def held(value: Any) -> Callable[[], Any]:
    return lambda: value


def test_values_of_many_kinds_are_told_apart() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    values = [
        *(None, True, 1, 1.0, "1", b"1", [1], (1,), {1}, {1: 2}, {2: 1}, loop, torch, np),
        *(
            torch.zeros(2),
            torch.zeros(1, 2),
            torch.zeros(2, dtype=torch.bfloat16),
            np.zeros(2),
            np.array([1, "a"], object),
        ),
        *(
            Held(a=1),
            Held(a=2),
            Held(a=1).__init__,
            torch.nn.Linear,
            torch.nn.functional.relu,
            functools.partial(max, 1),
        ),
        *(property(max), staticmethod(max), held(3)),
    ]
    assert len({fingerprint(held(value)) for value in values}) == len(values)
    assert fingerprint(held({"b", "a", "c"})) == fingerprint(held({"c", "b", "a"}))


def test_attributes_are_no_variables() -> None:
    def function(config: Any) -> Any:
        return config.pytest, later, os.sep

    if fingerprint is None:
        later = 1
    assert reached_by(function) == {"os": os}


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})),
        (Path("a"), Path("a"), Path("b")),
        (range(3), range(3), range(9)),
        (Decimal("0.1"), Decimal("0.1"), Decimal("0.2")),
        (torch.float32, torch.float32, torch.bfloat16),
        (array("d", [1.0]), array("d", [1.0]), array("d", [2.0])),
    ],
)
def test_data_of_any_kind_count(value: Any, same: Any, other: Any) -> None:
    assert fingerprint(value) == fingerprint(same)
    assert fingerprint(value) != fingerprint(other)
