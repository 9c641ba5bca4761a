"""Timing of few windows, for tests that look at what becomes of a timing and not at how sharp it is."""

import functools

import pytest

from sweeps.engine import confirm
from trainables.spec import TimingJob


def time_briefly(patch: pytest.MonkeyPatch) -> None:
    """Sweeps of this process time pairs in two windows an arm, not eight.

    Beside other tests every window is disturbed, and is repeated as long as patience lasts: 24 rounds of each pair.
    """
    patch.setattr(confirm, "TimingJob", functools.partial(TimingJob, windows=2))
