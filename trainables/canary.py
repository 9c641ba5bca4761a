"""A numeric canary: products of FP32 tensors that tell, by what they lose, the format that they ran in.

A library may compute them in TF32, BF16 or FP16 inside, which no dtype shows.
"""

from typing import Any

import torch

CLOSE = 2.0**-20
"""A value has come through where it is off by less: Winograd's sums may move FP32's last bits, a narrower format moves
more.
"""


def canary(kind: str, shapes: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """The format that a product of FP32 tensors runs in: ``float32``, ``tf32``, ``bfloat16`` or ``float16``.

    A value times one must come back. 1 + 2^-18 needs a longer mantissa than TF32's and FP16's 10 bits or than
    a pair of BF16 numbers, and leaves FP32 the bits that Winograd's sums need; 1 + 2^-9 needs more than BF16's 7, and
    2^17 a wider exponent than FP16's.

    Args:
        kind: ``"matmul"``, ``"conv"`` or ``"rnn"``.
        shapes: of the product, as the dispatch mode keeps them.
        device: where the product runs, under the settings in force.
        dtype: of the tensors: FP32, or of matrices complex64.
    """
    if _through(kind, shapes, 1 + 2**-18, device, dtype):
        return "float32"
    if not _through(kind, shapes, 1 + 2**-9, device, dtype):
        return "bfloat16"
    return "tf32" if _through(kind, shapes, 2.0**17, device, dtype) else "float16"


def _through(kind: str, shapes: tuple[Any, ...], value: float, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a value comes unchanged through a product in which all else is ones and zeros."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if kind == "matmul":
            product = (_matmul if len(shapes) == 3 else _trilinear)(shapes, value, device, dtype)
        else:
            product = {"conv": _conv, "rnn": _rnn}[kind](shapes, value, device)
        return abs(product.abs().max().item() - value) <= CLOSE * value


def _rnn(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    """A recurrent layer as wide as its input, and with ReLU, since an LSTM's gates would change the value.

    A packed sequence (sum of B over time, F) has as many rows at each time step as its batch sizes say.
    """
    shape, batch_sizes = shapes
    sequence = torch.zeros(shape, dtype=torch.float32, device=device)
    sequence[..., 0] = value
    weights = torch.zeros(2, shape[-1], shape[-1], dtype=torch.float32, device=device)
    weights[0, :, 0] = 1.0
    num_rows = batch_sizes[0] if batch_sizes else shape[1]
    start = torch.zeros(1, num_rows, shape[-1], dtype=torch.float32, device=device)
    if batch_sizes:
        sizes = torch.tensor(batch_sizes)  # on the CPU, wherever the sequence is
        return torch.rnn_relu(sequence, sizes, start, tuple(weights), False, 1, 0.0, False, False)[0]
    return torch.rnn_relu(sequence, start, tuple(weights), False, 1, 0.0, False, False, False)[0]


def _matmul(shapes: tuple[Any, ...], value: float, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    m, k, n = shapes
    left = torch.zeros(m, k, dtype=dtype, device=device)
    left[:, 0] = 1.0
    right = torch.zeros(k, n, dtype=dtype, device=device)
    right[0] = value
    return left @ right


def _trilinear(shapes: tuple[Any, ...], value: float, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A product of three tensors of which nothing but the first place along each summed dimension counts."""
    *_, summed = shapes[:7]
    operands = []
    for shape, expanded, here in zip(shapes[:3], shapes[3:6], (value, 1.0, 1.0), strict=True):
        own = [d for d in range(len(shape) + len(expanded)) if d not in expanded]
        operand = torch.zeros(shape, dtype=dtype, device=device)
        operand[tuple(0 if d in summed else slice(None) for d in own)] = here
        operands.append(operand)
    return torch.ops.aten._trilinear(*operands, *shapes[3:])  # type: ignore[no-any-return]


def _conv(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    images, kernels, layout, stride, padding, dilation, transposed, groups = shapes
    weight = torch.zeros(kernels, dtype=torch.float32, device=device)
    middle = tuple(size // 2 for size in kernels[2:])
    weight[(0, slice(None), *middle) if transposed else (slice(None), 0, *middle)] = 1.0
    weight = weight.contiguous(memory_format=layout)
    image = torch.full(images, value, dtype=torch.float32, device=device)
    return torch.convolution(image, weight, None, stride, padding, dilation, transposed, [0] * len(stride), groups)
