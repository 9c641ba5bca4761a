"""Where a sweep's files are: names in URLs, in a store that is a folder here."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import remote
from trainables import storage
from trainables.storage import Url

NAMES = ["my run", "größe", "50%", "50%25", "a?b", "exp#1", "[x]", "a+b&c=d"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_kept_as_it_is_in_a_store(tmp_path: Path, name: str):
    storage = Url(f"file://{tmp_path}/my sweeps")
    (storage / name / "lock").write(io.BytesIO(b"here"))
    assert (tmp_path / "my sweeps" / name / "lock").read_bytes() == b"here"
    (found,) = storage.folders()
    assert (found, found.name) == (storage / name, name)
    assert Url(found.shown) == found
    assert not found.is_empty()


@pytest.mark.parametrize("uri_of", [storage.uri_of, remote.uri_of])
def test_a_store_that_does_not_answer_is_not_waited_for_a_quarter_of_an_hour(uri_of: Callable[[str], str]):
    assert uri_of("gs://bucket/a b") == "gs://bucket/a%20b?retry_limit_seconds=30"
    assert uri_of("gs://bucket/a?scheme=http") == "gs://bucket/a?scheme=http&retry_limit_seconds=30"
    assert uri_of("gs://bucket/a?retry_limit_seconds=5") == "gs://bucket/a?retry_limit_seconds=5"
    assert uri_of("s3://key:pass%2Fword@bucket/a?region=x") == "s3://key:pass%2Fword@bucket/a?region=x"
