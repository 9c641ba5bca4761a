"""A trial's own global state: whatever a process did before, it starts from the same state and leaves none behind."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from trainables.compiler import compiler
from trainables.ladder import Precision
from trainables.precision import numerics


def seed_everything(seed: int) -> None:
    """Seeds the generators of Python, NumPy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - user code draws from the global generator
    if torch.cuda.is_available():
        torch.manual_seed(seed)  # pragma: gpu
    else:
        torch.default_generator.manual_seed(seed)  # the other also keeps a stack trace for a GPU that may yet come


@contextmanager
def isolated(
    precision: Precision, seed: int, num_threads: int, directory: str = "", compile: bool = False
) -> Iterator[dict[str, str]]:
    """Sets all global state that a trial depends on, and restores what stood before.

    Args:
        precision: whose numeric settings are put in force.
        seed: of every generator.
        num_threads: threads of an operation on the CPU, at least 1.
        directory: the working directory, where this machine has it: relative paths then mean what they mean to the
            user, whatever folder the worker runs in.
        compile: whether models are to be compiled.

    Yields:
        the numeric settings as they were read back.
    """
    environment, directory_before, threads = dict(os.environ), os.getcwd(), torch.get_num_threads()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    try:
        if directory and os.path.isdir(directory):
            os.chdir(directory)
        torch.set_num_threads(num_threads)
        seed_everything(seed)
        with compiler(compile, num_threads), numerics(precision) as settings:
            yield settings
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory_before)
        torch.set_num_threads(threads)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)


def weights_digest(model: nn.Module) -> str:
    """A fingerprint of a model's parameters and buffers, names and bytes."""
    content = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        content.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]
