from fractions import Fraction

import pytest

from sweeps.search.checks import (
    SweepError,
    did_you_mean,
    folder_name,
    number,
    one_of,
    refuse,
    share_of_gpus,
    text,
    whole,
)


def test_an_error_is_one_line_with_field_condition_value_and_remedy() -> None:
    with pytest.raises(SweepError) as caught:
        refuse("num_trials", "must be at least 1", "a\nb", "give\nmore")
    assert str(caught.value) == r"num_trials: must be at least 1, got 'a\nb'; give more"


def test_a_long_value_is_cut() -> None:
    with pytest.raises(SweepError) as caught:
        refuse("space", "must be short", list(range(1000)), "shorten it")
    assert len(str(caught.value)) < 140


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    with pytest.raises(SweepError, match="got one of type int that is too long to show; give less"):
        refuse("n", "must be small", 10**5000, "give less")


def test_what_could_garble_a_terminal_is_not_shown() -> None:
    with pytest.raises(SweepError) as caught:
        refuse("storage", "must be in \x1b[31m\u2028red", "a", "see\rthere")
    assert str(caught.value) == "storage: must be in [31m red, got 'a'; see there"


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, True])
def test_whole_refuses(value: object) -> None:
    with pytest.raises(SweepError, match="whole number of at least 1"):
        whole("n", value, at_least=1, remedy="r")


@pytest.mark.parametrize("value", [11, 10**12, 10**400])
def test_whole_has_an_upper_bound(value: int) -> None:
    assert whole("n", 10, at_least=1, at_most=10, remedy="r") == 10
    with pytest.raises(SweepError, match="whole number of at most 10"):
        whole("n", value, at_least=1, at_most=10, remedy="r")


@pytest.mark.parametrize("value", [10**400, Fraction(10**400, 3)], ids=["int", "fraction"])
def test_a_number_too_large_for_a_float_is_not_finite(value: object) -> None:
    with pytest.raises(SweepError, match="must be a finite number"):
        number("x", value, remedy="r")


@pytest.mark.parametrize("value", [-0.5, 1e-5, 1.5, float("nan"), True, "1"])
def test_share_of_gpus_refuses(value: object) -> None:
    with pytest.raises(SweepError, match=r"^gpus: must be "):
        share_of_gpus("gpus", value)


@pytest.mark.parametrize("value", [0, 1e-4, 0.5, 1, 8.0])
def test_share_of_gpus_takes(value: float) -> None:
    assert share_of_gpus("gpus", value) == value


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\0", "\udce4", "\x1b[31m", None, 3, b"a"])
def test_text_refuses(value: object) -> None:
    with pytest.raises(SweepError, match=r"^storage: must "):
        text("storage", value, "r")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True, "1", None, 0])
def test_number_refuses(value: object) -> None:
    with pytest.raises(SweepError, match="finite number above 0"):
        number("x", value, above=0, remedy="r")


def test_number_takes_its_inclusive_bound() -> None:
    assert number("x", 0, at_least=0, remedy="r") == 0.0


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "/a", "a/", "..\\a", "a\\b", " a", "a ", "a\n", "a\0b", None, 3]
)
def test_folder_name_refuses(name: object) -> None:
    with pytest.raises(SweepError):
        folder_name("run_name", name)


@pytest.mark.parametrize("name", ["first", "digits-20261123-101500", "a..b", "naïve run"])
def test_folder_name_takes(name: str) -> None:
    assert folder_name("run_name", name) == name


def test_suggestions_prefer_a_beginning() -> None:
    assert did_you_mean("bf16", ["fp32", "bf16-mixed", "bf16-true"]) == "did you mean 'bf16-mixed'? "
    assert did_you_mean("bf61-true", ["fp32", "bf16-mixed", "bf16-true"]) == "did you mean 'bf16-true'? "
    assert did_you_mean("", ["fp32"]) == ""
    assert did_you_mean("zzz", ["fp32"]) == ""


def test_one_of_lists_the_valid_names() -> None:
    with pytest.raises(SweepError, match=r"got 'maximum'; did you mean 'max'\? valid: max, min"):
        one_of("mode", "maximum", ["max", "min"])
    with pytest.raises(SweepError):
        one_of("mode", ["max"], ["max", "min"])
