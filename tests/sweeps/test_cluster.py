"""Where Ray is looked for, before it is asked: what cannot answer is refused at once."""

from pathlib import Path

import pytest

from sweeps.engine.cluster import find_address, ray_session
from sweeps.search.checks import SweepError


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def test_the_address_that_ray_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_address(None) == ("address", None)
    assert find_address("local") == ("address", None)
    assert find_address("auto") == ("address", "auto")
    (tmp_path / "ray").mkdir()
    current = tmp_path / "ray" / "ray_current_cluster"
    current.write_text("10.0.0.1:6379\n")
    assert find_address(None) == find_address("auto") == (str(current), "10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert find_address(None) == find_address("auto") == ("RAY_ADDRESS", "10.0.0.2:6379")
    assert find_address("10.0.0.3:6379") == ("address", "10.0.0.3:6379")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find_address(None) == ("RAY_ADDRESS", None)


@pytest.mark.parametrize(
    "address", ["localhost:\N{SUPERSCRIPT TWO}", "localhost:x", "a..b:1", "\N{SNOWMAN}..:1", "a" * 70 + ":1"]
)
def test_an_address_that_is_none_is_refused_in_one_line(address: str):
    with pytest.raises(SweepError, match=r"^address: must be ") as refused:
        ray_session(address).__enter__()
    assert "\n" not in str(refused.value)


def test_an_address_in_the_environment_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(SweepError, match=r"RAY_ADDRESS: .*got '127.0.0.1:9'; start one, or remove RAY_ADDRESS"):
        ray_session(None).__enter__()
