"""A precision in force: whether the device has it, the global settings it needs, autocast and the loss scaler."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch

from trainables.cpu import cpu_name
from trainables.float8 import torchao_reason
from trainables.ladder import LADDER, Precision
from trainables.routes import DEFAULT, settings_of

FP32_OPERATIONS = (
    ("cuda", "matmul"),
    ("cuda", "conv"),
    ("cuda", "rnn"),
    ("mkldnn", "matmul"),
    ("mkldnn", "conv"),
    ("mkldnn", "rnn"),
)
"""Every (backend, operation) whose FP32 arithmetic PyTorch lets be narrowed.

The setting that covers several of them reaches only those that were never set by themselves, so each one is set.
"""

Setting: TypeAlias = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""(getter, setter, wanted value) of one global setting."""


def lookup(name: str) -> Precision:
    """The ladder's entry of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in LADDER:
        raise ValueError(f"precision: must be one of {', '.join(LADDER)}; got {name!r}")
    return LADDER[name]


def unsupported_reason(precision: Precision, device: torch.device) -> str | None:
    """Why a device cannot run a precision, or ``None`` if it can.

    Support is not speed: a CPU without BF16 or FP16 units still computes in them, slowly. The probe measures that.
    """
    if precision.compute == "float8":
        return float8_reason(device) or torchao_reason()
    if device.type == "cuda":
        return _cuda_reason(precision, torch.cuda.get_device_capability(device))
    if precision.compute == "tf32":
        return "TF32 is a format of NVIDIA GPUs (sm_80 and up); this is a CPU"
    return None


def _cuda_reason(precision: Precision, capability: tuple[int, int]) -> str | None:
    if precision.compute in ("tf32", "bfloat16") and capability < (8, 0):
        what = "TF32" if precision.compute == "tf32" else "BF16"
        return f"{what} needs an NVIDIA GPU of sm_80 or up; this one is sm_{capability[0]}{capability[1]}"
    return None


def float8_reason(device: torch.device) -> str | None:
    """Why a device has no FP8 products, or ``None`` if it has."""
    if device.type != "cuda":
        return "FP8 is a format of NVIDIA GPUs (sm_89 and up); this is a CPU"
    major, minor = torch.cuda.get_device_capability(device)
    return (
        None if (major, minor) >= (8, 9) else f"FP8 needs an NVIDIA GPU of sm_89 or up; this one is sm_{major}{minor}"
    )


def device_name(device: torch.device) -> str:
    """The device's type as it is sold, which pairs must share: ``"NVIDIA H200"``, or the CPU's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)  # pragma: gpu
    return cpu_name()


def _settings(precision: Precision) -> dict[str, Setting]:
    """Name -> (getter, setter, wanted value) of each global setting that changes what a step computes."""
    tf32 = precision.compute == "tf32"
    settings: dict[str, Setting] = {
        # The old switches come first, since they move the settings below. PyTorch and libraries still read them, which
        # raises where they disagree with the new ones.
        "float32_matmul_precision": (
            _or_none(torch.get_float32_matmul_precision),
            torch.set_float32_matmul_precision,
            "high" if tf32 else "highest",
        ),
        "cudnn.allow_tf32": (_or_none(torch._C._get_cudnn_allow_tf32), torch._C._set_cudnn_allow_tf32, tf32),
    }
    settings["fp32_precision"] = (*_fp32_precision("generic", "all"), "none")
    for backend, operation in FP32_OPERATIONS:
        name = f"{backend}.{operation}.fp32_precision"
        settings[name] = (*_fp32_precision(backend, operation), "tf32" if tf32 else "ieee")
    for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        settings[name] = _attribute(torch.backends.cuda.matmul, name, True)
    if hasattr(torch.backends.cuda.matmul, "allow_fp16_accumulation"):  # not in every version
        settings["allow_fp16_accumulation"] = _attribute(torch.backends.cuda.matmul, "allow_fp16_accumulation", False)
    for name, wanted in (("enabled", True), ("benchmark", False), ("deterministic", False)):
        settings[f"cudnn.{name}"] = _attribute(torch.backends.cudnn, name, wanted)
    for kind in ("flash", "mem_efficient", "math", "cudnn"):
        is_enabled, enable = (
            getattr(torch.backends.cuda, name) for name in (f"{kind}_sdp_enabled", f"enable_{kind}_sdp")
        )
        settings[f"attention.{kind}"] = (is_enabled, enable, True)
    if torch.cuda.is_available():  # pragma: gpu
        library = torch.backends.cuda.preferred_blas_library
        settings["blas_library"] = (lambda: str(library()).rpartition(".")[2].lower(), library, "cublas")
    settings["default_dtype"] = (torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    settings["deterministic"] = (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0)
    settings["autocast_cache"] = (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, True)
    for kind in ("cpu", "cuda"):
        settings[f"autocast.{kind}"] = (
            partial(torch.is_autocast_enabled, kind),
            partial(torch.set_autocast_enabled, kind),
            False,
        )
    # The fast path of attention in evaluation asks for CUDA's autocast alone, and fails under the CPU's.
    mha = torch.backends.mha
    settings["mha_fastpath"] = (mha.get_fastpath_enabled, mha.set_fastpath_enabled, False)
    settings["grad_enabled"] = (torch.is_grad_enabled, torch.set_grad_enabled, True)
    return settings


def _fp32_precision(backend: str, operation: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return (
        partial(torch._C._get_fp32_precision_getter, backend, operation),
        partial(torch._C._set_fp32_precision_setter, backend, operation),
    )


def _attribute(module: Any, name: str, wanted: Any) -> Setting:
    return partial(getattr, module, name), partial(setattr, module, name), wanted


def _or_none(getter: Callable[[], Any]) -> Callable[[], Any]:
    """The getter of an old switch, giving ``None`` where the old and the new switches disagree."""

    def read() -> Any:
        try:
            return getter()
        except RuntimeError:
            return None

    return read


@contextmanager
def numerics(precision: Precision, route: str = DEFAULT) -> Iterator[dict[str, str]]:
    """Puts every global numeric setting in force for a precision, reads it back, and restores what stood before.

    Args:
        precision: an entry of the ladder.
        route: a kernel route of :mod:`trainables.routes`.

    Yields:
        the settings as they were read back, as text.

    Raises:
        RuntimeError: a setting did not take.
    """
    settings = _settings(precision)
    before = {name: getter() for name, (getter, _, _) in settings.items()}
    try:
        yield put_in_force(precision, route)
    finally:
        for name, (getter, setter, _) in settings.items():
            if getter() != before[name] and before[name] is not None:
                setter(before[name])


def put_in_force(precision: Precision, route: str = DEFAULT) -> dict[str, str]:
    """Sets every global numeric setting for good, or rather until the surrounding :func:`numerics` ends.

    Args:
        precision, route: as of :func:`numerics`.

    Returns:
        the settings as they were read back, as text.

    Raises:
        RuntimeError: a setting did not take.
    """
    settings, by_route = _settings(precision), settings_of(route)
    wanted = {name: by_route.get(name, value) for name, (_, _, value) in settings.items()}
    for name, (getter, setter, _) in settings.items():
        if getter() != wanted[name]:  # some setters import half of PyTorch
            setter(wanted[name])
    # Read back once all are set: until then the old switches and the new settings may disagree.
    found = {name: getter() for name, (getter, _, _) in settings.items()}
    for name, value in found.items():
        if value != wanted[name]:
            raise RuntimeError(f"{name} must be {wanted[name]} for {precision.name}, but reads back {value}")
    return {name: str(value) for name, value in found.items()}


def changed_setting(precision: Precision, route: str = DEFAULT) -> str | None:
    """The first setting that decides over number formats and is not as :func:`numerics` put it in force, in words."""
    by_route = settings_of(route)
    for name, (getter, _, by_default) in _settings(precision).items():
        found, wanted = getter(), by_route.get(name, by_default)
        # An old switch that reads as None disagrees with a new one below, which says what is in force.
        if found not in (wanted, None) and name.endswith(_FORMATS):
            return f"{name} was changed from {wanted} to {found}"
    return None


_FORMATS = ("_accumulation", "_precision", "allow_tf32", "_reduction", "default_dtype", "autocast.cpu", "autocast.cuda")
"""Ends of the names of settings that decide over number formats; others decide over speed or determinism alone."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A context for forward and loss; one object serves every step."""
    if precision.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision.autocast))


def make_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler | None:
    """The loss scaler of ``fp16-mixed``; ``None`` for all that need none."""
    return torch.amp.GradScaler(device.type) if precision.scaled else None
