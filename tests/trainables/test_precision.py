"""Global numeric settings, and what a device can run."""

from typing import Any

import pytest
import torch

from trainables import precision as module
from trainables.ladder import LADDER
from trainables.precision import FP32_OPERATIONS, autocast, lookup, make_scaler, numerics, unsupported_reason

CPU = torch.device("cpu")


def fp32_settings() -> dict[tuple[str, str], str]:
    return {key: torch._C._get_fp32_precision_getter(*key) for key in FP32_OPERATIONS}


def everything() -> dict[str, Any]:
    """Read from PyTorch itself, not through the module under test."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        **{".".join(key): value for key, value in fp32_settings().items()},
        "fp16_reduction": matmul.allow_fp16_reduced_precision_reduction,
        "bf16_reduction": matmul.allow_bf16_reduced_precision_reduction,
        "fp16_accumulation": getattr(matmul, "allow_fp16_accumulation", False),
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
        "default_dtype": torch.get_default_dtype(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "grad": torch.is_grad_enabled(),
    }


def disturb() -> None:
    for backend, operation in FP32_OPERATIONS:
        torch._C._set_fp32_precision_setter(backend, operation, "tf32")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.enable_flash_sdp(False)
    if hasattr(torch.backends.cuda.matmul, "allow_fp16_accumulation"):
        torch.backends.cuda.matmul.allow_fp16_accumulation = True
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.enabled = False
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_cache_enabled(False)
    torch.set_grad_enabled(False)


@pytest.fixture
def untouched():
    """The state in which the test found the process, which it must find again."""
    with numerics(LADDER["fp32"]):
        before = everything()
        yield before
        assert everything() == before


@pytest.mark.parametrize(("name", "narrow"), [(n, "tf32" if n == "tf32" else "ieee") for n in LADDER])
def test_every_setting_is_put_in_force_whatever_stood_before(untouched: Any, name: str, narrow: str) -> None:
    with numerics(LADDER["fp32"]):
        disturb()
        disturbed = everything()
        with numerics(LADDER[name]) as shown:
            assert set(fp32_settings().values()) == {narrow}
            found = everything()
            assert (found["fp16_reduction"], found["bf16_reduction"]) == (True, True)
            assert found["default_dtype"] is torch.float32
            assert found["cudnn"] == (True, False, False)
            assert found["deterministic"][0] is False
            assert found["autocast"] == (False, True)
            assert found["grad"] is True
            assert (found["fp16_accumulation"], found["attention"]) == (False, (True, True))
            assert shown["cuda.matmul.fp32_precision"] == narrow
            assert shown["default_dtype"] == "torch.float32"
        assert everything() == disturbed


def test_a_body_that_raises_or_changes_settings_leaves_none_behind(untouched: dict[str, Any]) -> None:
    def body() -> None:
        with numerics(LADDER["tf32"]):
            disturb()
            raise KeyError("planted")

    with pytest.raises(KeyError):
        body()
    assert everything() == untouched


def test_a_generic_setting_made_later_still_reaches_what_was_never_set() -> None:
    keys = [torch._C._get_fp32_precision_getter(*key) for key in FP32_OPERATIONS]
    with numerics(LADDER["fp32"]):
        pass
    assert [torch._C._get_fp32_precision_getter(*key) for key in FP32_OPERATIONS] == keys


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16-mixed"])
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_the_old_switches_agree_so_that_libraries_can_read_them(name: str, before: str) -> None:
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with numerics(LADDER[name]):
            assert torch.get_float32_matmul_precision() == ("high" if name == "tf32" else "highest")
            assert torch.backends.cuda.matmul.allow_tf32 is (name == "tf32")
            with torch.backends.cudnn.flags(enabled=False):  # as users of the CTC loss write it
                pass
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(found)


def test_a_setting_that_does_not_take_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"deaf": (lambda: "old", lambda value: None, "new")}
    monkeypatch.setattr(module, "_settings", lambda precision: settings)
    with pytest.raises(RuntimeError, match="deaf must be new for fp32, but reads back old"), numerics(LADDER["fp32"]):
        raise AssertionError("the body must not run")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"precision: must be one of fp32, tf32, bf16-mixed.*got 'fp16'") as raised:
        lookup("fp16")
    assert "\n" not in str(raised.value)
    assert lookup("bf16-true") is LADDER["bf16-true"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fp32", None),
        ("bf16-mixed", None),
        ("fp16-mixed", None),
        ("bf16-true", None),
        ("tf32", "NVIDIA"),
        ("fp16-true", None),
        ("fp8-tensorwise", "this is a CPU"),
        ("fp8-rowwise", "this is a CPU"),
    ],
)
def test_what_a_cpu_can_run(name: str, reason: str | None) -> None:
    found = unsupported_reason(LADDER[name], CPU)
    assert found is None if reason is None else found is not None and reason in found


@pytest.mark.parametrize(
    ("capability", "name", "supported"),
    [
        ((7, 5), "fp32", True),
        ((7, 0), "fp16-mixed", True),
        ((7, 5), "bf16-mixed", False),
        ((7, 5), "bf16-true", False),
        ((7, 5), "tf32", False),
        ((8, 0), "tf32", True),
        ((8, 0), "bf16-true", True),
        ((9, 0), "bf16-mixed", True),
        ((7, 0), "fp16-true", True),
        ((8, 6), "fp8-tensorwise", False),
        ((8, 9), "fp8-tensorwise", True),
        ((9, 0), "fp8-rowwise", True),
    ],
)
def test_what_a_gpu_can_run(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str, supported: bool
) -> None:
    """The GPUs are mocked: none is here, and no one machine has them all."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = unsupported_reason(LADDER[name], torch.device("cuda", 0))
    assert (found is None) is supported
    if not supported:
        assert f"sm_{capability[0]}{capability[1]}" in str(found)


def test_fp8_needs_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is mocked, and so is a machine without torchao."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = unsupported_reason(LADDER["fp8-rowwise"], torch.device("cuda", 0))
    assert found == "FP8 needs torchao, which is not installed; pip install 'ampsweep[fp8]'"


def test_autocast_and_scaler_are_those_of_the_precision() -> None:
    a = torch.ones(2, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16-mixed", torch.bfloat16), ("fp16-mixed", torch.float16)):
        with autocast(LADDER[name], CPU):
            assert (a @ a).dtype is dtype
    with autocast(LADDER["fp8-rowwise"], CPU):  # around the layers that are not converted
        assert (a @ a).dtype is torch.bfloat16
    for name in ("bf16-true", "fp16-true"):
        with autocast(LADDER[name], CPU):
            assert (a @ a).dtype is torch.float32
    scaled = [name for name in LADDER if make_scaler(LADDER[name], CPU) is not None]
    assert scaled == ["fp16-mixed"]


def test_what_transformers_switches_on_for_all_is_undone(untouched: Any) -> None:
    """The generic setting, which the old switches then contradict; a later trial must not find it."""
    with numerics(LADDER["fp32"]):
        torch.backends.fp32_precision = "tf32"
    assert torch._C._get_fp32_precision_getter("generic", "all") == "none"
    torch._C._set_fp32_precision_setter("generic", "all", "tf32")
    try:
        with numerics(LADDER["fp32"]) as shown:
            assert shown["fp32_precision"] == "none"
            assert set(fp32_settings().values()) == {"ieee"}
        assert torch._C._get_fp32_precision_getter("generic", "all") == "tf32"
    finally:
        torch._C._set_fp32_precision_setter("generic", "all", "none")
