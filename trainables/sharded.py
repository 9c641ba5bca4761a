"""Models whose parameters, gradients and optimizer state are shared out over a trial's workers: PyTorch's FSDP2.

Whatever leaves a worker (a checkpoint, final weights, a gradient norm) is whole, and none of it tells how many held it.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

_MEETINGS = itertools.count()


def shard(model: nn.Module, device: torch.device) -> None:
    """Leaves each of the workers that have met its share of a model, and has it gather a block while that computes.

    The model is never whole on the device: its blocks move there one after the other.

    Args:
        model: the same on all workers, not yet on the device.
        device: where it trains.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    workers = torch.distributed.group.WORLD
    assert workers is not None  # they have met
    # PyTorch keeps what it knows of equal meshes, and this process may have had another rank in the last trial's.
    name = f"workers of trial {next(_MEETINGS)}"
    mesh = DeviceMesh.from_group(workers, device.type, mesh_dim_names=(name,))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The parts whose parameters are gathered together: what a Transformers model must not have split, if it says so.

    Of any other model, the outermost entries of its module lists; of a model without any it is the model alone.
    """
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    if names:
        return _outermost(model, lambda parent, child: type(child).__name__ in names)
    return _outermost(model, _is_entry)


def _is_entry(parent: nn.Module, child: nn.Module) -> bool:
    return isinstance(parent, nn.ModuleList) and not isinstance(child, nn.ModuleList | nn.ModuleDict)


def _outermost(module: nn.Module, is_block: Callable[[nn.Module, nn.Module], bool]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        found += [child] if is_block(module, child) else _outermost(child, is_block)
    return [block for block in dict.fromkeys(found) if any(True for _ in block.parameters())]


def gathered_bytes(model: nn.Module) -> int:
    """Most bytes of parameters and their gradients that a step has whole at once: the model's own and a block's."""
    blocks = blocks_of(model)
    in_blocks = {parameter for block in blocks for parameter in block.parameters()}
    own = sum(_whole_bytes(p) for p in model.parameters() if p not in in_blocks)
    return own + max((sum(map(_whole_bytes, block.parameters())) for block in blocks), default=0)


def _whole_bytes(parameter: nn.Parameter) -> int:
    return parameter.nbytes * (2 if parameter.requires_grad else 1)


def is_sharded(tensor: Any) -> bool:
    """Whether a worker holds but its share of a tensor."""
    return hasattr(tensor, "full_tensor")  # without importing what only such a tensor's maker needs


def held(tensor: torch.Tensor) -> torch.Tensor:
    """What this worker holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(value: Any, keep: bool = True) -> Any:
    """Plain data with every tensor whole, on the CPU where it was shared out; all workers call it together.

    Args:
        value: a tensor, or tensors in mappings; whatever is not shared out stays as it is.
        keep: whether this worker wants what was gathered; ``None`` stands for it otherwise.
    """
    if isinstance(value, Mapping):
        return {name: whole(part, keep) for name, part in value.items()}
    if not is_sharded(value):
        return value
    gathered = value.full_tensor().detach()
    return gathered.cpu() if keep else None


def share(tensor: Any, like: Any) -> Any:
    """What a worker holds of a whole tensor that is to take another's place; the tensor itself where that is whole.

    Args:
        tensor: the same on all workers.
        like: whose place it takes.
    """
    if not (is_sharded(like) and isinstance(tensor, torch.Tensor) and tensor.shape == like.shape):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Without a source, each takes its own part of what it has, and nothing is sent.
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def shares(state: Mapping[Any, Any], like: Mapping[Any, Any]) -> dict[Any, Any]:
    """:func:`share` of each tensor of a state dict, by name."""
    return {name: share(tensor, like.get(name)) for name, tensor in state.items()}


def shares_of_optimizer(state: Mapping[int, Mapping[str, Any]], parameters: list[nn.Parameter]) -> dict[int, Any]:
    """:func:`share` of an optimizer's state, whose tensors have their parameters' places.

    Args:
        state: number of a parameter -> name -> value.
        parameters: by number.
    """
    return {
        index: {name: share(value, parameters[index]) for name, value in kept.items()} for index, kept in state.items()
    }


def is_of_parameter(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a parameter or a view of one."""
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
