"""Measures the devices that this process may use."""

import os
import socket

import torch

from sweeps.engine.doctor.facts import Measured, Unanswered
from trainables.precision import device_name
from trainables.rates import matrix_rates

SECONDS = 2.0
"""About how long one measurement takes; there are two of a CPU."""

CPU = torch.device("cpu")


def measure_here(num_threads: int) -> list[Measured]:
    """Rates of the CPU, and of each type of GPU that PyTorch sees.

    Args:
        num_threads: all that the CPU is worth.
    """
    indices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    types = {device_name(torch.device("cuda", index)): index for index in reversed(indices)}
    return [measure_cpu(num_threads), *(measure_gpu(index) for index in types.values())]


def measure_cpu(num_threads: int) -> Measured:
    """Rates of the CPU with all its threads, and with one, as most trials on a CPU have.

    Args:
        num_threads: all that it is worth.
    """
    counts = dict.fromkeys((num_threads, 1))
    rates = tuple(rate for count in counts for rate in matrix_rates(CPU, SECONDS, count))
    return Measured(device_name(CPU), socket.gethostname(), rates)


def measure_gpu(index: int) -> Measured:
    """Rates of one GPU.

    Args:
        index: among those that PyTorch sees here.
    """
    if not torch.cuda.is_available():
        hidden = f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES')!r}"
        build = f"PyTorch is built for CUDA {torch.version.cuda}, and {hidden}"
        return Measured("GPU", socket.gethostname(), error=Unanswered(f"PyTorch sees no GPU ({build})"))
    device = torch.device("cuda", index)  # pragma: gpu
    return Measured(device_name(device), socket.gethostname(), tuple(matrix_rates(device, SECONDS)))  # pragma: gpu
