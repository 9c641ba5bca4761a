"""Kernel routes: the fastest that computes the same, and the default one where another cannot be taken."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import products
from trainables.build import build_loop
from trainables.ladder import LADDER
from trainables.pairs import time_block
from trainables.precision import numerics
from trainables.probe import ProbeResult, probe
from trainables.report import TrialReport
from trainables.routes import CHANNELS_LAST, DEFAULT, ONEDNN, OPTIONS, ROUTES, join, options_for, options_in
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


def test_onednn_computes_the_products_where_its_route_is_taken(make_spec: MakeSpec) -> None:
    """And they remain FP32 by every setting that a library may read, and none of it is left behind."""
    if not torch.backends.mkldnn.is_available() or "amx_tile" in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs oneDNN, and a CPU that does not compute in BF16 where it may")
    before = torch.get_float32_matmul_precision()
    kernels = {}
    for route in (DEFAULT, ONEDNN):
        [arm, *_] = time_block(TimingJob(make_spec("wide", seed=4), ("fp32",), {"fp32": route}, windows=1))["arms"]
        assert (arm["route"], arm["effective_precision"], arm["effective_share"]) == (route, "fp32", 1.0)
        kernels[route] = arm["kernel"]
    assert kernels[ONEDNN].startswith("oneDNN")
    assert "MKL" not in kernels[ONEDNN]
    assert "oneDNN" not in kernels[DEFAULT]
    with numerics(LADDER["fp32"], ONEDNN):
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_tf32 is True  # as the old switch brings it along
    assert torch.get_float32_matmul_precision() == before


def test_a_route_by_which_products_are_narrowed_is_not_taken(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU with AMX is mocked: where oneDNN may compute in BF16, its canary answers as such a CPU's would."""
    honest = products.canary

    def canary(*arguments: Any) -> str:
        narrowed = torch._C._get_fp32_precision_getter("mkldnn", "matmul") == "bf16"
        return "bfloat16" if narrowed else honest(*arguments)

    monkeypatch.setattr(products, "canary", canary)
    assert probed(make_spec()).route == DEFAULT
    report = last_report(make_spec(route=ONEDNN))
    assert (report.status, report.route, report.effective_precision) == ("completed", DEFAULT, "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16-true"])
def test_a_route_changes_the_rounding_alone(make_spec: MakeSpec, precision: str) -> None:
    default, last = (last_report(images(make_spec, route, precision)) for route in (DEFAULT, CHANNELS_LAST))
    assert (default.route, last.route) == (DEFAULT, CHANNELS_LAST)
    assert last.effective_precision == precision
    assert (last.init_digest, last.data_digest) == (default.init_digest, default.data_digest)
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert last.metrics["val_loss"] == pytest.approx(default.metrics["val_loss"], rel=tolerance)


@pytest.mark.parametrize(
    ("behaviour", "is_last"),
    [
        ({"first": "slow"}, True),
        ({"last": "slow"}, False),
        ({"last": "views"}, False),
        ({"last": "no evaluation"}, False),
    ],
)
def test_the_probe_finds_the_fastest_route_that_can_be_taken(
    make_spec: MakeSpec, behaviour: Mapping[str, str], is_last: bool
) -> None:
    found = probed(images(make_spec, **behaviour))
    assert found.status == "completed"
    assert found.route is not None
    assert (CHANNELS_LAST in options_in(found.route)) is is_last  # what oneDNN gains beside it is the machine's affair
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
def test_where_a_step_draws_random_numbers_all_arms_store_images_alike(make_spec: MakeSpec, precision: str) -> None:
    spec = images(make_spec, precision=precision, first="drops", last="drops")
    assert probed(spec, precision).route in (DEFAULT, ONEDNN)
    assert last_report(spec).route == DEFAULT
    assert last_report(replace(spec, route=join([CHANNELS_LAST, ONEDNN]))).route == ONEDNN


def test_only_what_can_make_a_difference_is_tried() -> None:
    dense, images = torch.nn.Linear(2, 2), torch.nn.Conv2d(2, 2, 1)
    cpu, gpu, fp32, bf16 = torch.device("cpu"), torch.device("cuda", 0), LADDER["fp32"], LADDER["bf16-mixed"]
    assert options_for(dense, fp32, cpu, {"matmul"}) == ("onednn",)
    assert options_for(dense, bf16, cpu, {"matmul"}) == ()
    assert options_for(images, fp32, cpu, {"conv"}) == ("channels_last",)
    assert options_for(images, bf16, gpu, {"conv", "matmul"}) == ("channels_last", "cublaslt", "cudnn_benchmark")


def test_routes_are_options_in_their_order() -> None:
    assert [join(options_in(route)) for route in ROUTES] == list(ROUTES)
    assert ROUTES[: len(OPTIONS) + 1] == (DEFAULT, *OPTIONS)
    assert join(["onednn", "channels_last"]) == "channels_last+onednn"
    assert len(set(ROUTES)) == 2 ** len(OPTIONS)


def test_a_configuration_that_cannot_take_the_route_takes_the_default_one(make_spec: MakeSpec) -> None:
    spec = images(make_spec, last="views")
    report = last_report(spec)
    assert (report.status, report.route) == ("completed", DEFAULT)
    assert report.metrics == last_report(replace(spec, route=DEFAULT)).metrics
    record = time_block(TimingJob(spec, ("fp32", "bf16-mixed"), {"fp32": CHANNELS_LAST}, windows=1))
    assert [arm["route"] for arm in record["arms"]] == [DEFAULT] * 4


def test_each_arm_is_timed_by_its_own_route_and_the_copy_by_its_original_s(make_spec: MakeSpec) -> None:
    job = TimingJob(images(make_spec, DEFAULT), ("fp32", "bf16-mixed"), {"fp32": CHANNELS_LAST}, windows=1)
    arms = time_block(TimingJob.from_json(job.to_json()))["arms"]
    routes = [(arm["precision"], arm["is_copy"], arm["is_default"], arm["route"]) for arm in arms]
    assert sorted(routes) == [
        ("bf16-mixed", False, False, DEFAULT),
        ("fp32", False, False, CHANNELS_LAST),
        ("fp32", False, True, DEFAULT),
        ("fp32", True, False, CHANNELS_LAST),
    ]
    assert len({arm["init_digest"] for arm in arms}) == len({arm["data_digest"] for arm in arms}) == 1


def test_a_state_goes_on_by_the_route_of_where_it_is(make_spec: MakeSpec, tmp_path: Any) -> None:
    """As where the rest of a trial runs on another type of device; each report says by which route it was made."""
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
        assert [(report.epoch, report.route) for report in resumed] == [(1, CHANNELS_LAST), (2, route)]


def test_a_state_of_another_route_keeps_each_number_s_own_moments(make_spec: MakeSpec) -> None:
    """As PBT copies it from trial to trial: the optimizer's moments lie in memory as the weights of the route do."""
    loops = {}
    for route in (DEFAULT, CHANNELS_LAST):
        with numerics(LADDER["fp32"], route):
            loops[route] = build_loop(images(make_spec, route), LADDER["fp32"], torch.device("cpu"))
    with numerics(LADDER["fp32"]):
        loops[DEFAULT].train(3)
        state = copy.deepcopy(loops[DEFAULT].state_dict())
        expected = loops[DEFAULT].train(3).train_loss
        loops[CHANNELS_LAST].load_state_dict(state)
        assert loops[CHANNELS_LAST].train(3).train_loss == pytest.approx(expected, rel=1e-5)
    ends = [list(loop.model.parameters()) for loop in loops.values()]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*ends, strict=True))
