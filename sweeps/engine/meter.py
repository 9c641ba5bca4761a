"""What runs cost: the price of their share of nodes, for the time that they hold it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.money import dollars
from sweeps.engine.nodes import find_node
from sweeps.engine.prices import PricedNode, Prices, price_of, share_of

Held = Mapping[str, float]
"""``num_cpus`` and ``num_gpus`` that each worker of a run holds, as in Ray's remote options."""

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Rate:
    """What a run costs on its nodes.

    Args:
        usd: per second; ``None`` where a node has no price.
        at_most: the same with the highest of all prices in place of a missing one: what a budget counts.
    """

    usd: float | None
    at_most: float


@dataclass
class _Account:
    """One run: the seconds of attempts that have ended are paid for in ``usd`` once their rate is known.

    Args:
        usd: paid so far, in earlier processes, too; ``None`` for good where an attempt had no price.
        unpaid_s: of attempts of which nobody knows where they were, since they ended before their first report.
        held: by each worker of its attempt.
        since: when its attempt began, ``None`` while it holds nothing.
        rate: of this attempt, else of the one before.
    """

    usd: float | None = 0.0
    unpaid_s: float = 0.0
    held: Held = field(default_factory=dict)
    since: float | None = None
    rate: Rate | None = None

    def cost(self, open_s: float) -> float | None:
        """With ``open_s`` seconds of the attempt that runs; what has no rate counts as the attempts around it."""
        seconds = self.unpaid_s + open_s
        if self.usd is None or seconds == 0:
            return self.usd
        return None if self.rate is None or self.rate.usd is None else self.usd + seconds * self.rate.usd

    def kept(self, open_s: float) -> dict[str, float | None]:
        """The same as columns of the journal, from which another process can go on."""
        if self.rate is None and self.usd is not None:
            return {"unpaid_s": self.unpaid_s + open_s}  # what it cost in earlier processes stays
        return {"cost_usd": self.cost(open_s), "unpaid_s": None}

    def rest(self, seconds: float) -> None:
        """The attempt has ended after some seconds."""
        self.since = None
        if self.rate is None:
            self.unpaid_s += seconds
        else:
            self.usd, self.unpaid_s = self.cost(seconds), 0.0


class Meter:
    """Counts what runs cost while they run, over all their attempts, and how long the whole run has taken.

    Args:
        prices: as the sweep declares them; without, nothing has a cost.
        run_s: seconds that earlier processes of the run took.
        spent_usd: what they spent, as this process counts it.
        before: what runs cost in them, by name: USD, ``None`` where that is unknown, and the seconds still to be paid
            for.
        find: the node of an id of Ray's.
        clock: seconds since any moment.

    ``unpriced`` has the devices that no price fits, as they are met.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        run_s: float = 0.0,
        spent_usd: float = 0.0,
        before: Mapping[str, tuple[float | None, float]] | None = None,
        find: Callable[[str], PricedNode | None] = find_node,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prices, self._find, self._clock = prices, find, clock
        self._run_s, self._started = run_s, clock()
        self._nodes: dict[str, PricedNode | None] = {}
        self._accounts = {name: _Account(*paid) for name, paid in (before or {}).items()}
        self._running: dict[str, _Account] = {}
        self._dearest, self._ended_usd = 0.0, spent_usd
        self.unpriced: dict[str, None] = {}

    @property
    def run_s(self) -> float:
        """Seconds that the run has taken, in all its processes."""
        return self._run_s + self._clock() - self._started

    @property
    def spent_usd(self) -> float:
        """What all runs have cost so far, at most: one that has not reported at the dearest rate."""
        return self._ended_usd + sum(self._open_s(run) * self._at_most(run) for run in self._running.values())

    def usd(self, name: str) -> float | None:
        """What a run has cost so far, in earlier processes, too; ``None`` where that is unknown."""
        account = self._accounts.get(name)
        return None if self._prices is None or account is None else account.cost(self._open_s(account))

    def kept(self) -> dict[str, dict[str, float | None]]:
        """What the runs that hold something now have cost so far, by name, as columns of the journal."""
        return {name: account.kept(self._open_s(account)) for name, account in self._running.items()}

    def hourly(self, num: int) -> str:
        """What so many runs cost at once, in words; empty where nothing has told a price yet."""
        usd = num * self._dearest * SECONDS_PER_HOUR
        return f"at most {dollars(usd)} an hour" if usd else ""

    def begins(self, name: str, held: Held) -> None:
        """An attempt of a run begins, or goes on after a pause; it holds so much from now on."""
        if self._prices is None:
            return
        self.rests(name)
        account = self._running[name] = self._accounts.setdefault(name, _Account())
        account.held, account.since = held, self._clock()

    def is_at(self, name: str, device: str | None, node_ids: Sequence[str]) -> None:
        """A run tells its device's name, and Ray's ids of the nodes of its workers."""
        account = self._running.get(name)
        if account is not None:
            account.rate = self.rate(account.held, device, node_ids) or account.rate

    def rests(self, name: str) -> None:
        """A run holds nothing any more: it has ended, pauses, or was lost."""
        account = self._running.pop(name, None)
        if account is not None:
            seconds = self._open_s(account)
            self._ended_usd += seconds * self._at_most(account)
            account.rest(seconds)

    def charge(self, held: Held, device: str | None, node_ids: Sequence[str], seconds: float | None) -> float | None:
        """What something has cost that is over; ``None`` where that is unknown.

        Args:
            held: by each of its workers.
            device: the device's name.
            node_ids: Ray's ids of the nodes of its workers.
            seconds: for which it was held.
        """
        rate = self.rate(held, device, node_ids)
        if rate is None or seconds is None:
            return None
        self._ended_usd += seconds * rate.at_most
        return None if rate.usd is None else seconds * rate.usd

    def rate(self, held: Held, device: str | None, node_ids: Sequence[str]) -> Rate | None:
        """The rate of a run; ``None`` without prices, or where its nodes are not known. Args as of :meth:`charge`."""
        nodes = [self._node(node_id) for node_id in node_ids]
        prices = self._prices
        if prices is None or not nodes:
            return None
        highest = max(prices.values()) if isinstance(prices, Mapping) else prices
        cpus, gpus = held["num_cpus"], held["num_gpus"]
        at_most, is_known = 0.0, True
        for node in nodes:
            if node is None:
                return None
            price = price_of(prices, device, node, gpus > 0)
            if price is None:
                self.unpriced[device or "an unknown device"] = None
                is_known = False
            at_most += share_of(node, cpus, gpus) / SECONDS_PER_HOUR * (highest if price is None else price)
        self._dearest = max(self._dearest, at_most)
        return Rate(at_most if is_known else None, at_most)

    def _node(self, node_id: str) -> PricedNode | None:
        if self._nodes.get(node_id) is None:
            self._nodes[node_id] = self._find(node_id)
        return self._nodes[node_id]

    def _open_s(self, account: _Account) -> float:
        return self._clock() - account.since if account.since is not None else 0.0

    def _at_most(self, account: _Account) -> float:
        return self._dearest if account.rate is None else account.rate.at_most
