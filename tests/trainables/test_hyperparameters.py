import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainables.hyperparameters import RESERVED, Hyperparameters, broken_rule

ROOT = Path(__file__).parents[2]
VALID = [
    ("learning_rate", 0),
    ("learning_rate", 1.5),
    ("weight_decay", 0.0),
    ("batch_size", 1),
    ("batch_size", 10**12),
    ("accumulate_steps", 1),
    ("max_grad_norm", None),
    ("max_grad_norm", 5e-324),
    ("max_grad_norm", math.inf),
    ("warmup_frac", 0),
    ("warmup_frac", 1.0),
    ("lr_schedule", "cosine"),
    ("optimizer", "sgd"),
]
BROKEN = [
    ("learning_rate", -1e-9, "a finite number of at least 0"),
    ("learning_rate", math.nan, "a finite number of at least 0"),
    ("learning_rate", math.inf, "a finite number of at least 0"),
    ("learning_rate", 10**400, "a finite number of at least 0"),
    ("learning_rate", True, "a finite number of at least 0"),
    ("learning_rate", "0.1", "a finite number of at least 0"),
    ("learning_rate", None, "a finite number of at least 0"),
    ("weight_decay", -1, "a finite number of at least 0"),
    ("batch_size", 0, "a whole number of at least 1"),
    ("batch_size", 16.0, "a whole number of at least 1"),
    ("batch_size", True, "a whole number of at least 1"),
    ("accumulate_steps", "2", "a whole number of at least 1"),
    ("max_grad_norm", 0, "above 0, or None"),
    ("max_grad_norm", math.nan, "above 0, or None"),
    ("max_grad_norm", "none", "above 0, or None"),
    ("warmup_frac", 1.5, "a number from 0 to 1"),
    ("lr_schedule", "cosin", "one of constant, linear, cosine"),
    ("lr_schedule", None, "one of constant, linear, cosine"),
    ("optimizer", "lion", "one of adamw, adam, sgd"),
]


@pytest.mark.parametrize(("name", "value"), VALID)
def test_what_the_loop_can_use_keeps_the_rules(name: str, value: Any) -> None:
    assert broken_rule(name, value) is None
    assert getattr(Hyperparameters.of({name: value, "width": 3}), name) == value


@pytest.mark.parametrize(("name", "value", "condition"), BROKEN)
def test_what_the_loop_cannot_use_breaks_one(name: str, value: Any, condition: str) -> None:
    assert broken_rule(name, value) == condition
    with pytest.raises(ValueError, match=f"^{name} must be {condition}, got "):
        Hyperparameters.of({name: value})


def test_every_hyperparameter_of_the_loop_has_a_rule_and_no_other() -> None:
    assert all(broken_rule(name, object()) is not None for name in RESERVED)
    assert broken_rule("width", object()) is None


def test_the_accumulation_divides_the_batch() -> None:
    assert Hyperparameters.of({"batch_size": 12, "accumulate_steps": 3}).accumulate_steps == 3
    with pytest.raises(ValueError, match=r"accumulate_steps must divide batch_size \(64\), got 3"):
        Hyperparameters.of({"accumulate_steps": 3})


def test_the_rules_need_no_torch() -> None:
    code = "import sys, trainables.hyperparameters; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "False"
