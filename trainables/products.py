"""The matrix products of a step, and the formats that they ran in: by dispatch, and of FP32 tensors by a canary.

Dispatch tells the dtypes of the tensors that each product was given. A canary at its shape, under the setting that was
in force, tells what FP32 tensors were multiplied in.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils.flop_counter import flop_registry

from trainables.canary import canary

Product: TypeAlias = tuple[str, str, tuple[Any, ...], str]
"""Kind and format of a product; of FP32 numbers alone, its shapes and the setting that may narrow it at the time."""

UNKNOWN = "unknown"
"""The format of a product that no canary could replay."""

_REAL = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
"""What complex numbers are multiplied in: four products of real ones."""

_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
"""Layouts whose products no library narrows."""


class MatrixFlops(TorchDispatchMode):
    """Counts matrix FLOPs by product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops: Counter[Product] = Counter()
        self._error: Exception | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """What was seen of ``"matmul"``, ``"conv"`` and ``"rnn"``."""
        return frozenset(kind for kind, *_ in self._flops)

    def by_format(self, device: torch.device) -> Counter[str]:
        """Matrix FLOPs by the format that they ran in.

        A canary of every shape: a library may pick one kernel for large products and another, in another format, for
        small ones.

        Args:
            device: where they ran.

        Raises:
            Exception: a product could not be counted.
        """
        if self._error is not None:
            raise self._error
        flops: Counter[str] = Counter()
        for (kind, ran, shapes, setting), count in self._flops.items():
            if shapes:
                with _as_it_was(kind, setting, device):
                    ran = _replayed(kind, shapes, ran, device)
            flops[_REAL.get(ran, ran)] += count
        return flops

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: keeping ``torch.compile`` out of what it never sees imports all of it, which takes as long as PyTorch."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(is_traceable_wrapper_subclass_type(kind) for kind in types):
            # What torchao wraps claims its old dtype; the products that it comes down to are seen here, too.
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        try:
            self._count(func, args, kwargs or {}, result)
        except Exception as error:  # the step itself goes on: whoever counts decides what that means
            self._error = error
        return result

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        operation = str(func._overloadpacket).removesuffix("_for_cpu").replace("_for_cpu_backward", "_backward")
        count = _FLOP_FORMULAS.get(operation)
        if count is None:
            return
        flops = _counted(int(count(*args, **kwargs, out_val=result)), args)
        if not flops:
            return
        kind = next((kind for kind in ("conv", "rnn") if kind in operation), "matmul")
        operand = [a for a in args if isinstance(a, torch.Tensor)][1]
        narrows = operand.dtype in (torch.float32, torch.complex64) and not any(_is_sparse(a) for a in args)
        how = (_shapes(operation, args), _setting(kind, operand.device)) if narrows else ((), "")
        ran = _float8_format(args[2]) if "_scaled_" in operation and "_mm" in operation else _name(operand.dtype)
        self._flops[kind, ran, *how] += flops


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _replayed(kind: str, shapes: tuple[Any, ...], dtype: str, device: torch.device) -> str:
    """What the canary says, if it can replay the product: not all that a library takes from others it takes from us."""
    try:
        return canary(kind, shapes, device, getattr(torch, dtype))
    except RuntimeError:
        return UNKNOWN


def _is_sparse(operand: Any) -> bool:
    return isinstance(operand, torch.Tensor) and operand.layout in _SPARSE


def _counted(flops: int, args: Any) -> int:
    """FLOPs of a product that a formula took for one of dense real matrices."""
    for operand in args:
        if isinstance(operand, torch.Tensor) and _is_sparse(operand) and operand.numel():
            values = operand._values() if operand.layout is torch.sparse_coo else operand.values()
            flops = flops * values.numel() // operand.numel()
    tensors = [operand for operand in args if isinstance(operand, torch.Tensor)]
    return 4 * flops if tensors[-1].is_complex() else flops


def _backend(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "mkldnn"


def _setting(kind: str, device: torch.device) -> str:
    """How FP32 products of a kind may be narrowed at this moment: a library may change it around its own calls."""
    return str(torch._C._get_fp32_precision_getter(_backend(device), kind))


def _float8_format(scales: Any) -> str:
    """The scaling of an FP8 product, told by its first scale; one of exactly 1 leaves scaling to a later operation."""
    scale = scales[0] if isinstance(scales, list | tuple) else scales
    if scale.numel() > 1:
        return "float8-rowwise"
    return "float8" if scale.item() == 1 else "float8-tensorwise"


def _rnn_flops(sequence: torch.Tensor, *args: Any, out_val: Any) -> int:
    """Two FLOPs for each weight and time step of a fused recurrent layer, whose weights oneDNN takes singly."""
    weights = args[0] if isinstance(args[0], list | tuple) else args[:2]
    steps = sequence.numel() // sequence.shape[-1]
    return 2 * steps * sum(int(weight.numel()) for weight in weights if weight.dim() == 2)


def _rnn_backward_flops(*args: Any, out_val: Any) -> int:
    return 2 * _rnn_flops(*args, out_val=out_val)


def _matrix_flops(left: torch.Tensor, right: torch.Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    """Of a matrix with a matrix, or with a vector; of as many with as many."""
    return 2 * left.numel() * (right.shape[-1] if right.dim() > 1 else 1)


def _grouped_flops(left: torch.Tensor, right: torch.Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    """Of a matrix whose rows, or of one whose columns, are dealt out among several; or of two cut along what is summed.

    Only where both come in several, each has all of the other's.
    """
    groups = left.shape[0] if left.dim() == right.dim() == 3 else 1
    return 2 * groups * left.shape[-2] * left.shape[-1] * right.shape[-1]


def _trilinear_flops(*args: Any, out_val: Any, **kwargs: Any) -> int:
    """Two for each product of three numbers, as in ``nn.Bilinear``: over all the dimensions that its tensors have."""
    sizes: dict[int, int] = {}
    for tensor, expanded in zip(args[:3], args[3:6], strict=True):
        own = [d for d in range(tensor.dim() + len(expanded)) if d not in expanded]
        sizes |= dict(zip(own, tensor.shape, strict=True))
    return 2 * math.prod(sizes.values())


def _added_matrix_flops(_: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    return _matrix_flops(*args, **kwargs)


_ADDED = ("_addmm_activation", "_sparse_addmm", "addbmm", "addmv", "sparse_sampled_addmm")
"""Products that are added to their first argument, and that PyTorch's own counter leaves out."""

_FLOP_FORMULAS = (
    {str(operation): formula for operation, formula in flop_registry.items()}
    | {
        f"aten.{name}{suffix}": formula
        for name in ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
        for suffix, formula in (("", _rnn_flops), ("_backward", _rnn_backward_flops))
    }
    | {f"aten.{name}": _matrix_flops for name in ("_int_mm", "_scaled_mm_v2", "hspmm", "mv")}
    | {f"aten.{name}": _grouped_flops for name in ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2")}
    | {f"aten.{name}": _added_matrix_flops for name in _ADDED}
    | {"aten._trilinear": _trilinear_flops}
)
"""FLOP formulas by operation; attention on the CPU goes under the name that it has on CUDA."""


def _shapes(operation: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a canary of the same shape needs: (m, k, n), a convolution's arguments, or the shape of a sequence.

    Of a packed sequence, also how many there are at each time step; of a product of three, all of its arguments.
    """
    if "trilinear" in operation:
        return *(tuple(a.shape) for a in args[:3]), *(tuple(dims) for dims in args[3:7]), *args[7:8]
    if "rnn" in operation:
        packed = args[0].dim() == 2
        sizes = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], int)]
        return tuple(args[0].shape), tuple(sizes[0]) if packed and sizes else ()
    if "conv" in operation:
        # Both have a bias (or its size) between weight and stride; backward has the output's gradient in front.
        image, weight, _, *rest = args[1:] if "backward" in operation else args
        stride, padding, dilation, transposed, _, groups = rest[:6]
        last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        steps = (tuple(stride), tuple(padding), tuple(dilation))
        return tuple(image.shape), tuple(weight.shape), layout, *steps, transposed, groups
    operands = [a.shape for a in args if isinstance(a, torch.Tensor) and a.dim() >= 2][-2:]
    return operands[0][-2], operands[0][-1], operands[-1][-1]


@contextmanager
def _as_it_was(kind: str, setting: str, device: torch.device) -> Iterator[None]:
    key = (_backend(device), kind)
    before = torch._C._get_fp32_precision_getter(*key)
    try:
        if setting != before:
            torch._C._set_fp32_precision_setter(*key, setting)
        yield
    finally:
        if setting != before:
            torch._C._set_fp32_precision_setter(*key, before)
