"""The Ray cluster that a sweep runs on: a running one, or one started here for as long as the sweep lasts."""

import functools
import logging
import math
import os
import signal
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from sweeps.engine.autoscaler import Node, startable_nodes
from sweeps.engine.leaving import arrive, end_own_ray, is_ray_silent, leave
from sweeps.engine.own_machines import await_first_worker
from sweeps.engine.sweep import Sweep
from sweeps.search.checks import refuse


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many of them run at once.

    Args:
        num_cpus: of each trial, all its workers together.
        num_gpus: of each trial, the same.
        slots: trials that the cluster runs at once, as it stands; on the first node to come where it has none for them.
        exclusive_cpus: all CPUs of the smallest node that can run a trial: what a timing reserves; where it has
            several workers, the part of each.
        waits_for: what has to come before a trial can run, in words; empty where nothing has to.
        num_workers: processes of each trial; they may run on several nodes.
        can_grow: whether nodes may be added while the sweep runs.
        placement: further options of Ray's tasks, which keep them to some of the nodes.
    """

    num_cpus: float
    num_gpus: float
    slots: int
    exclusive_cpus: float
    waits_for: str = ""
    num_workers: int = 1
    can_grow: bool = False
    placement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def per_worker(self) -> dict[str, Any]:
        """Ray's remote options of each worker of a trial: its share of CPUs and GPUs, and where it may run."""
        return {"num_cpus": self._asked.cpus, "num_gpus": self._asked.gpus, **self.placement}

    @property
    def exclusive(self) -> dict[str, Any]:
        """Options that reserve a device for one process: whole GPUs, or its part of all CPUs of a node."""
        if self.num_gpus:
            return {**self.per_worker, "num_gpus": math.ceil(self._asked.gpus)}
        return {**self.per_worker, "num_cpus": self.exclusive_cpus, "num_gpus": 0}

    @property
    def _asked(self) -> "_Asked":
        return _Asked(self.num_workers, _share(self.num_cpus, self.num_workers), self.num_gpus / self.num_workers)

    def fit_on(self, node: Node) -> bool:
        """Whether a worker of a trial has room on a node."""
        return bool(self._asked.able([node]))

    def whole_on(self, nodes: list[Node]) -> int:
        """How many trials run at once on some nodes, all workers of each there."""
        return self._asked.slots(nodes)

    def kept_to(self, nodes: list[Node], placement: Mapping[str, Any]) -> "Resources":
        """The same on some of the nodes alone.

        Args:
            nodes: on each of which a worker has room.
            placement: options of Ray's tasks that keep them there.
        """
        slots, exclusive_cpus = max(1, self.whole_on(nodes)), self._asked.exclusive_cpus(nodes)
        return replace(self, slots=slots, exclusive_cpus=exclusive_cpus, placement=placement)


@contextmanager
def connected(sweep: Sweep) -> Iterator[Resources]:
    """Connects to the sweep's cluster, or starts Ray on this machine and stops it afterwards.

    Raises:
        SweepError: the cluster cannot be reached, or no node of it has what a trial asks for.
    """
    import ray

    is_there = find_address(sweep.address)[1] is not None
    # No node joins a Ray that starts here.
    startable: Callable[[], list[Node] | None] = startable_nodes if is_there or ray.is_initialized() else list
    with ray_session(sweep.address):
        if is_there:
            await_first_worker()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        kinds = functools.cache(startable)
        yield replace(resources_of(sweep, nodes, kinds), can_grow=is_there and kinds() != [])


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Connects to a cluster, or starts Ray on this machine and stops it afterwards; uses the Ray that is there already.

    Args:
        address: as ``Sweep.address``.

    Raises:
        SweepError: the cluster cannot be reached.
    """
    import ray

    if ray.is_initialized():
        arrive()
        yield
        return
    field, found = find_address(address)
    starts_here: dict[str, Any] = {"include_dashboard": False, **own_cpus()} if found is None else {}
    _check_reachable(field, found or "")
    try:
        with warnings.catch_warnings(), _own_sigterm(), _starting(found is None):
            warnings.simplefilter("ignore")
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **starts_here)
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        remedy = "see ray status, with RAY_AUTH_MODE=token where the cluster wants a token"
        refuse(field, f"Ray could not be reached or started ({why})", found, remedy)
    try:
        arrive()
        yield
    finally:
        try:
            leave(ray.shutdown)
        finally:  # a second signal, too
            if is_ray_silent():
                end_own_ray()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps Ray's handlers out: that in Python exits at once, with the signal's number, that in C++ aborts."""
    from ray._private import utils

    handler, put_in = signal.getsignal(signal.SIGTERM), utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = put_in
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _starting(here: bool) -> AbstractContextManager[None]:
    if not here:
        return nullcontext()
    from sweeps.engine.quick_start import quick_start

    return quick_start()


def own_cpus() -> dict[str, int]:
    """``num_cpus`` for ``ray.init`` where this process may not use all: Ray minds containers, not Slurm or taskset."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity is not None else os.cpu_count()
    return {"num_cpus": allowed} if allowed is not None and allowed < (os.cpu_count() or 1) else {}


def find_address(address: str | None) -> tuple[str, str | None]:
    """Where Ray would look for a running cluster: as ``ray.init`` does, but without connecting.

    Args:
        address: as ``Sweep.address``.

    Returns:
        what names the cluster, as users know it, and its address; ``None`` where Ray would start here.
    """
    if address not in (None, "auto"):
        return "address", None if address == "local" else address
    from ray._common.utils import get_ray_address_file

    given = os.environ.get("RAY_ADDRESS") or "auto"
    if given != "auto":
        return "RAY_ADDRESS", None if given == "local" else given
    file = Path(get_ray_address_file(None))
    if file.exists():  # `ray start` leaves it, and `ray stop` takes it away
        return str(file), file.read_text(encoding="utf-8").strip()
    return "address", address


def _check_reachable(field: str, address: str) -> None:
    """Ray itself tries an address at which nothing listens for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host:
        return
    if not (port.isascii() and port.isdigit()):
        refuse(field, "must be HOST:PORT, ray://HOST:PORT, auto or local", address, "for example 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, UnicodeError) as error:
        remedy = "start one, or leave it out" if field == "address" else f"start one, or remove {field}"
        refuse(field, f"must be a Ray cluster that answers ({error})", address, remedy)


def resources_of(sweep: Sweep, nodes: list[Node], startable: Callable[[], list[Node] | None] = list) -> Resources:
    """What each trial gets.

    Args:
        sweep: what it asks for.
        nodes: those of the cluster.
        startable: tells of those that may be added, as :func:`startable_nodes`; not asked where it does not matter.

    Raises:
        SweepError: a trial does not fit on them.
    """
    num_workers, gpus = sweep.workers_per_trial, sweep.gpus_per_trial
    if gpus is None:
        gpus = float(num_workers * (_have_gpus(nodes) or _have_gpus(startable() or [])))
    asked = _Asked(num_workers, _share(sweep.cpus_per_trial, num_workers), gpus / num_workers)
    found = functools.partial(Resources, sweep.cpus_per_trial, gpus, num_workers=num_workers)
    slots = asked.slots(nodes)
    if slots:
        return found(slots, asked.exclusive_cpus(nodes))
    kinds = startable()
    if kinds is None:
        return found(1, asked.cpus, f"{asked.missing}: waits until one is added")
    able = asked.able(kinds)
    if not able:
        _refuse_what_fits_nowhere(asked, nodes, kinds)
    waits_for = f"{asked.missing}: waits for one of {listed(able)} from the autoscaler"
    slots = max(1, min(asked.fits(node) for node in able) // num_workers)
    return found(slots, asked.exclusive_cpus(kinds), waits_for)


@dataclass(frozen=True)
class _Asked:
    """What a trial asks for: its number of workers, and CPUs and GPUs of each."""

    num_workers: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
        return each if self.num_workers == 1 else f"{self.num_workers} workers of {each}"

    @property
    def missing(self) -> str:
        return f"no node has the {self} of a trial" if self.num_workers == 1 else f"there is no room for the {self}"

    def able(self, nodes: list[Node]) -> list[Node]:
        """The nodes that a worker fits on."""
        return [node for node in nodes if node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus]

    def fits(self, node: Node) -> int:
        """How many workers fit on a node that one fits on."""
        by_cpu = int(node["CPU"] / self.cpus)
        if not self.gpus:
            return by_cpu
        if self.gpus >= 1:
            return min(by_cpu, int(node["GPU"] / self.gpus))
        return min(by_cpu, int(node["GPU"]) * (10_000 // round(1e4 * self.gpus)))  # no share spans two GPUs

    def slots(self, nodes: list[Node]) -> int:
        """How many trials run at once."""
        return sum(self.fits(node) for node in self.able(nodes)) // self.num_workers

    def exclusive_cpus(self, nodes: list[Node]) -> float:
        """The CPUs of the smallest node, shared by the workers that fit on it."""
        return min(_share(node["CPU"], min(self.num_workers, self.fits(node))) for node in self.able(nodes))


def _refuse_what_fits_nowhere(asked: _Asked, nodes: list[Node], kinds: list[Node]) -> NoReturn:
    more = f"; the autoscaler may start: {listed(kinds)}" if kinds else ""
    there = f"(there are: {listed(nodes)}{more})"
    if asked.num_workers == 1:
        remedy = "ask for less, or add larger nodes"
        refuse("cpus_per_trial, gpus_per_trial", f"must fit on one node {there}", str(asked), remedy)
    refuse("workers_per_trial", f"must all fit on the cluster {there}", str(asked), "ask for fewer, or add nodes")


def _share(cpus: float, num: int) -> float:
    """An equal part of some CPUs, in the ten thousandths that Ray counts."""
    return cpus if num == 1 else math.floor(cpus / num * 1e4) / 1e4


def _have_gpus(nodes: list[Node]) -> bool:
    return any(node.get("GPU", 0) > 0 for node in nodes)


def listed(nodes: list[Node]) -> str:
    """What nodes have, e.g. ``3 x 8 CPUs and 1 GPUs, 2 CPUs and 0 GPUs``."""
    counts = Counter(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    return ", ".join(what if count == 1 else f"{count} x {what}" for what, count in counts.items()) or "none"
