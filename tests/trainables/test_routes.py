"""Kernel routes: the fastest that computes the same, and the default one where another cannot be taken."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from trainables.pairs import time_block
from trainables.probe import ProbeResult, probe
from trainables.report import TrialReport
from trainables.routes import CHANNELS_LAST, DEFAULT, routes_of
from trainables.spec import Checkpoints, TimingJob, TrialSpec
from trainables.trial import Trial, run_trial

MakeSpec = Callable[..., TrialSpec]


def images(make_spec: MakeSpec, route: str = CHANNELS_LAST, precision: str = "fp32", **config: Any) -> TrialSpec:
    return make_spec("images", precision, config={"batch_size": 16, **config}, route=route)


def last_report(spec: TrialSpec) -> TrialReport:
    return list(run_trial(spec))[-1]


def probed(spec: TrialSpec, precision: str = "fp32", route: str | None = None) -> ProbeResult:
    [result] = probe(spec, [precision], route)
    return result


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16-true"])
def test_a_route_changes_the_rounding_alone(make_spec: MakeSpec, precision: str) -> None:
    default, last = (last_report(images(make_spec, route, precision)) for route in (DEFAULT, CHANNELS_LAST))
    assert (default.route, last.route) == (DEFAULT, CHANNELS_LAST)
    assert last.effective_precision == precision
    assert (last.init_digest, last.data_digest) == (default.init_digest, default.data_digest)
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert last.metrics["val_loss"] == pytest.approx(default.metrics["val_loss"], rel=tolerance)


@pytest.mark.parametrize(
    ("behaviour", "route"),
    [
        ({"first": "slow"}, CHANNELS_LAST),
        ({"last": "slow"}, DEFAULT),
        ({"last": "views"}, DEFAULT),
        ({"last": "no evaluation"}, DEFAULT),
    ],
)
def test_the_probe_finds_the_fastest_route_that_can_be_taken(
    make_spec: MakeSpec, behaviour: Mapping[str, str], route: str
) -> None:
    found = probed(images(make_spec, **behaviour))
    assert (found.status, found.route) == ("completed", route)
    if "slow" in behaviour.values():
        assert found.default_ms is not None
        assert (found.default_ms > 30) is ("first" in behaviour)
    assert found.step_ms is not None
    assert found.step_ms < 30


def test_a_route_that_is_fast_since_it_computes_in_another_precision_is_not_taken(make_spec: MakeSpec) -> None:
    spec = images(make_spec, precision="bf16-mixed", first="slow", last="fp32")
    assert probed(spec, "bf16-mixed").route == DEFAULT
    report = last_report(spec)
    assert (report.status, report.route, report.effective_precision) == ("completed", DEFAULT, "bf16-mixed")


def test_a_given_route_is_not_compared_with_others(make_spec: MakeSpec) -> None:
    spec = images(make_spec, first="slow")
    assert [probed(spec, route=route).route for route in (DEFAULT, CHANNELS_LAST)] == [DEFAULT, CHANNELS_LAST]


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_where_a_step_draws_random_numbers_all_arms_take_one_route(make_spec: MakeSpec, precision: str) -> None:
    spec = images(make_spec, precision=precision, first="drops", last="drops")
    assert probed(spec, precision).route == DEFAULT
    assert last_report(spec).route == DEFAULT


def test_only_models_with_images_have_a_choice(make_spec: MakeSpec) -> None:
    assert probed(make_spec()).route == DEFAULT
    import torch

    assert routes_of(torch.nn.Linear(2, 2)) == (DEFAULT,)
    assert routes_of(torch.nn.Conv2d(2, 2, 1)) == (DEFAULT, CHANNELS_LAST)


def test_a_configuration_that_cannot_take_the_route_takes_the_default_one(make_spec: MakeSpec) -> None:
    spec = images(make_spec, last="views")
    report = last_report(spec)
    assert (report.status, report.route) == ("completed", DEFAULT)
    assert report.metrics == last_report(replace(spec, route=DEFAULT)).metrics
    record = time_block(TimingJob(spec, ("fp32", "bf16-mixed"), {"fp32": CHANNELS_LAST}, windows=1))
    assert [arm["route"] for arm in record["arms"]] == [DEFAULT] * 3


def test_each_arm_is_timed_by_its_own_route_and_the_copy_by_its_original_s(make_spec: MakeSpec) -> None:
    job = TimingJob(images(make_spec, DEFAULT), ("fp32", "bf16-mixed"), {"fp32": CHANNELS_LAST}, windows=1)
    arms = time_block(TimingJob.from_json(job.to_json()))["arms"]
    routes = {(arm["precision"], arm["is_copy"]): arm["route"] for arm in arms}
    assert routes == {
        ("fp32", False): CHANNELS_LAST,
        ("fp32", True): CHANNELS_LAST,
        ("bf16-mixed", False): DEFAULT,
    }


def test_a_state_is_of_a_route(make_spec: MakeSpec, tmp_path: Any) -> None:
    """Where the route changed, a trial begins anew, since the rest would round otherwise."""
    saved = replace(images(make_spec), checkpoints=Checkpoints(str(tmp_path), 0, "val_loss", "min"))
    reports = Trial(saved).reports()
    next(reports)
    next(reports)  # a step of the second epoch is saved by now
    state = tmp_path / "t" / "state.pt"
    kept = state.read_bytes()
    reports.close()  # type: ignore[attr-defined]
    for route in (CHANNELS_LAST, DEFAULT):
        state.parent.mkdir(exist_ok=True)
        state.write_bytes(kept)
        resumed = list(run_trial(replace(saved, route=route)))
        assert [report.epoch for report in resumed] == [1, 2]
        assert {report.route for report in resumed} == {route}
