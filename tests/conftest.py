"""What all tests share: fast ones first, then those that use Ray, in one session of it."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


def pytest_collection_finish() -> None:
    """Trials collect garbage as they end; like the processes that run them, they need not walk what stays for good."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """One Ray for all tests that need one, on two CPUs; commands that tests start find it by its address."""
    import ray

    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    address = context.address_info["address"]
    os.environ["RAY_ADDRESS"] = address
    yield address
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()
