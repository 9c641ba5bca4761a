"""All that the doctor found, put together: looks, judges, and says what stops a sweep."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.engine.cluster import find_address, ray_session
from sweeps.engine.doctor.cluster import look_at_cluster, measure_cluster
from sweeps.engine.doctor.devices import measure_here
from sweeps.engine.doctor.facts import Cluster, Finding, Machine, Measured, Storage
from sweeps.engine.doctor.gpu_rules import gpu_findings
from sweeps.engine.doctor.machine import look_at_machine
from sweeps.engine.doctor.machine_rules import machine_findings, version_findings
from sweeps.engine.doctor.place_rules import storage_findings, tracking_findings
from sweeps.engine.doctor.places import look_at_storage, look_at_tracking
from sweeps.engine.doctor.rate_rules import rate_findings
from sweeps.engine.doctor.ray_rules import cluster_findings, no_cluster_findings, unreachable_findings
from sweeps.search.checks import SweepError


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Args:
        findings: in the order of their areas.
        measured: rates of each type of device.
    """

    findings: tuple[Finding, ...]
    measured: tuple[Measured, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings with a problem, those that stop a sweep first."""
        return tuple(sorted((f for f in self.findings if f.problem), key=lambda finding: not finding.fatal))

    @property
    def stops(self) -> tuple[str, ...]:
        """What stops a sweep: the problems without which it could run."""
        return tuple(finding.problem for finding in self.problems if finding.fatal and finding.problem)

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``stops``, ``findings`` and ``rates``."""
        rates = [{**dataclasses.asdict(rate), "node": each.node} for each in self.measured for rate in each.rates]
        return {"stops": self.stops, "findings": [dataclasses.asdict(f) for f in self.findings], "rates": rates}


@dataclass(frozen=True)
class _Seen:
    """What was looked at, before it is judged: a cluster, or why there is none."""

    storage: Storage
    measured: tuple[Measured, ...]
    cluster: Cluster | None = None
    unreachable: str | None = None


def examine(address: str | None, place: str) -> Report:
    """Looks at the cluster, where there is one, and at this machine; starts no Ray.

    Args:
        address: as ``Sweep.address``.
        place: of the results, as ``Sweep.storage``.

    Raises:
        SweepError: the cluster of that address cannot be reached.
    """
    driver = look_at_machine(use_gpus=True)
    seen = _look(address, look_at_storage(place), driver)
    tracking = look_at_tracking(os.environ, Path.home())
    findings = merged(
        [
            *_of_machines(driver, seen),
            *version_findings(driver),
            *_of_ray(driver, seen),
            *storage_findings(seen.storage),
            *tracking_findings(tracking),
        ]
    )
    return Report(findings, seen.measured)


def _look(address: str | None, storage: Storage, driver: Machine) -> _Seen:
    found, unreachable = find_address(address)[1], None
    if found is not None:
        try:
            with ray_session(address):
                cluster, unseen = look_at_cluster(found, storage)
                storage = dataclasses.replace(storage, unseen_by=unseen)
                return _Seen(storage, tuple(measure_cluster(cluster)), cluster)
        except SweepError as error:
            if address is not None:
                raise
            unreachable = str(error)
    worth = min(driver.usable_cpus, driver.cpu_quota or driver.usable_cpus)
    return _Seen(storage, tuple(measure_here(max(1, int(worth)))), unreachable=unreachable)


def _of_machines(driver: Machine, seen: _Seen) -> Iterator[Finding]:
    """Of the nodes where trials run, or of this machine."""
    nodes = seen.cluster.nodes if seen.cluster else ()
    places = [(node.machine, (node.name,)) for node in nodes if node.machine] if seen.cluster else [(driver, ())]
    for judge in (machine_findings, gpu_findings):
        for machine, names in places:
            yield from (dataclasses.replace(finding, nodes=names) for finding in judge(machine))
    known = {machine.node: machine for machine, _ in places}
    for measured in seen.measured:
        yield from rate_findings(measured, known.get(measured.node))


def _of_ray(driver: Machine, seen: _Seen) -> Iterator[Finding]:
    if seen.cluster is not None:
        yield from cluster_findings(seen.cluster, driver)
    elif seen.unreachable is not None:
        yield from unreachable_findings(seen.unreachable)
    else:
        yield from no_cluster_findings(driver)


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings that are alike but for their nodes as one, with all their nodes."""
    nodes: dict[Finding, list[str]] = {}
    for finding in findings:
        nodes.setdefault(dataclasses.replace(finding, nodes=()), []).extend(finding.nodes)
    return tuple(dataclasses.replace(f, nodes=tuple(dict.fromkeys(names))) for f, names in nodes.items())
