"""Which libraries' kernels serve matrix products: read from what the libraries themselves say while it runs."""

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack

import torch

_ONEDNN = re.compile(r"exec,cpu,(?:matmul|inner_product|convolution|deconvolution|rnn),([^,\s]+)(?:.*,([\d.e+-]+)$)?")
_MKL = re.compile(r"MKL_VERBOSE (\w*GEMM\w*)\(.*\) ([\d.]+)(ns|us|ms|s) ")
_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}

NAMED_FROM = 0.1
"""Share of the products' time from which a kernel is named."""


def serving_kernel(products: Callable[[], object], device: torch.device) -> str | None:
    """The library and kernel of a product or step, such as ``"oneDNN brg_matmul:avx512_core_amx"`` or ``"MKL SGEMM"``.

    Args:
        products: runs them once; they must have run before, so that what happens only the first time is over.
        device: where they run.

    Returns:
        all kernels that take a tenth of the products' time or more, joined by commas, the longest first; on CUDA the
        library alone; ``None`` where a library may have served them that says nothing, such as OpenBLAS.
    """
    if device.type == "cuda":
        return cuda_library()  # pragma: gpu
    silent = "PyTorch's own loops" if libraries().get("BLAS") == "mkl" else None
    times = parse_verbose(_printed(products))
    named = [name for name, ms in times.items() if ms >= NAMED_FROM * sum(times.values())]
    return ", ".join(sorted(named, key=times.__getitem__, reverse=True)) or silent


def cuda_library() -> str:
    """The library that computes matrix products on CUDA, as it is set."""
    if torch.version.hip is not None:
        return "hipBLAS"
    return "cuBLASLt" if str(torch.backends.cuda.preferred_blas_library()).endswith("Cublaslt") else "cuBLAS"


def parse_verbose(text: str) -> dict[str, float]:
    """The kernels of matrix products that oneDNN's or MKL's verbose lines name -> milliseconds in each.

    Args:
        text: what the libraries printed.
    """
    times: dict[str, float] = {}
    for line in text.splitlines():
        if ran := _ONEDNN.search(line):
            name, ms = f"oneDNN {ran[1]}", float(ran[2] or 0)
        elif ran := _MKL.search(line):
            name, ms = f"MKL {ran[1]}", float(ran[2]) * _MS[ran[3]]
        else:
            continue
        times[name] = times.get(name, 0.0) + ms
    return times


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


def _printed(products: Callable[[], object]) -> str:
    """What products make the libraries print: from C, so the process's standard output is turned away meanwhile."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    with tempfile.TemporaryFile() as file:
        stdout = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with _verbose():
                products()
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
