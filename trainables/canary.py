"""A numeric canary: products of FP32 tensors that tell, by what they lose, the format that they ran in.

A library may compute them in TF32, BF16 or FP16 inside, which no dtype shows.
"""

from typing import Any

import torch

CLOSE = 2.0**-20
"""A value has come through where it is off by less: Winograd's sums may move FP32's last bits, a narrower format moves
more.
"""


def canary(kind: str, shapes: tuple[Any, ...], device: torch.device) -> str:
    """The format that a product of FP32 tensors runs in: ``float32``, ``tf32``, ``bfloat16`` or ``float16``.

    A value times one must come back. 1 + 2^-18 needs a longer mantissa than TF32's and FP16's 10 bits or than
    a pair of BF16 numbers, and leaves FP32 the bits that Winograd's sums need; 1 + 2^-9 needs more than BF16's 7, and
    2^17 a wider exponent than FP16's.

    Args:
        kind: ``"matmul"``, ``"conv"`` or ``"rnn"``.
        shapes: of the product, as the dispatch mode keeps them.
        device: where the product runs, under the settings in force.
    """
    if _through(kind, shapes, 1 + 2**-18, device):
        return "float32"
    if not _through(kind, shapes, 1 + 2**-9, device):
        return "bfloat16"
    return "tf32" if _through(kind, shapes, 2.0**17, device) else "float16"


def _through(kind: str, shapes: tuple[Any, ...], value: float, device: torch.device) -> bool:
    """Whether a value comes unchanged through a product in which all else is ones and zeros."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        product = {"matmul": _matmul, "conv": _conv, "rnn": _rnn}[kind](shapes, value, device)
        return abs(product.abs().max().item() - value) <= CLOSE * value


def _rnn(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    """A recurrent layer as wide as its input, and with ReLU, since an LSTM's gates would change the value."""
    sequence = torch.zeros(shapes, dtype=torch.float32, device=device)
    sequence[..., 0] = value
    weights = torch.zeros(2, shapes[-1], shapes[-1], dtype=torch.float32, device=device)
    weights[0, :, 0] = 1.0
    start = torch.zeros(1, *shapes[1:], dtype=torch.float32, device=device)
    return torch.rnn_relu(sequence, start, tuple(weights), False, 1, 0.0, False, False, False)[0]


def _matmul(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    m, k, n = shapes
    left = torch.zeros(m, k, dtype=torch.float32, device=device)
    left[:, 0] = 1.0
    right = torch.zeros(k, n, dtype=torch.float32, device=device)
    right[0] = value
    return left @ right


def _conv(shapes: tuple[Any, ...], value: float, device: torch.device) -> torch.Tensor:
    images, kernels, layout, stride, padding, dilation, transposed, groups = shapes
    weight = torch.zeros(kernels, dtype=torch.float32, device=device)
    middle = tuple(size // 2 for size in kernels[2:])
    weight[(0, slice(None), *middle) if transposed else (slice(None), 0, *middle)] = 1.0
    weight = weight.contiguous(memory_format=layout)
    image = torch.full(images, value, dtype=torch.float32, device=device)
    return torch.convolution(image, weight, None, stride, padding, dilation, transposed, [0] * len(stride), groups)
