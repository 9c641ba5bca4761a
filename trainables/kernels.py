"""Which library's kernel serves a matrix product: read from what the libraries themselves say while it runs."""

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack

import torch

_ONEDNN = re.compile(r"exec,cpu,(?:matmul|inner_product),([^,\s]+)")
_MKL = re.compile(r"MKL_VERBOSE (\w*GEMM\w*)\(")


def serving_kernel(product: Callable[[], object], device: torch.device) -> str | None:
    """The library and kernel of a product, such as ``"oneDNN brg_matmul:avx512_core_amx"`` or ``"MKL SGEMM"``.

    Args:
        product: runs it once; it must have run before, so that what happens only the first time is over.
        device: where it runs.

    Returns:
        on CUDA the library alone; ``None`` where a library may have served it that says nothing, such as OpenBLAS.
    """
    if device.type == "cuda":
        return "cuBLAS" if torch.version.hip is None else "hipBLAS"  # pragma: gpu
    silent = "PyTorch's own loops" if libraries().get("BLAS") == "mkl" else None
    return parse_verbose(_printed(product)) or silent


def parse_verbose(text: str) -> str | None:
    """The kernel that oneDNN's or MKL's verbose lines name, the last one that ran; ``None`` where there is none.

    Args:
        text: what the libraries printed.
    """
    found = [
        f"oneDNN {ran[1]}" if "exec,cpu" in ran[0] else f"MKL {ran[1]}"
        for line in text.splitlines()
        if (ran := _ONEDNN.search(line) or _MKL.search(line))
    ]
    return found[-1] if found else None


def libraries() -> dict[str, str]:
    """Name -> version of the libraries for arithmetic that this build of PyTorch has, as its configuration tells."""
    shown = torch.__config__.show()
    patterns = {
        "MKL": r"Math Kernel Library Version (\S+?)(?:-Product)? ",
        "oneDNN": r"(?:MKL-DNN|oneDNN) v(\S+)",
        "BLAS": r"BLAS_INFO=(\w+)",
        "cuDNN": r"CuDNN (\S+)",
    }
    found = {name: re.search(pattern, shown) for name, pattern in patterns.items()}
    return {name: match[1] for name, match in found.items() if match}


def _printed(product: Callable[[], object]) -> str:
    """What a product makes the libraries print: from C, so the process's standard output is turned away meanwhile."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    with tempfile.TemporaryFile() as file:
        stdout = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with _verbose():
                product()
            flush(None)
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        file.seek(0)
        return file.read().decode(errors="replace")


def _verbose() -> ExitStack:
    stack = ExitStack()
    for library in (torch.backends.mkldnn, torch.backends.mkl):
        if library.is_available():
            stack.enter_context(library.verbose(library.VERBOSE_ON))
    return stack
