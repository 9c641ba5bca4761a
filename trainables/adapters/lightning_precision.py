"""The precision that a Lightning trainer's plugin and device resolve to, and names for what a step ran in."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainables.effective import EFFECTIVE_SHARE, precision_name
from trainables.products import MatrixFlops

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_ENGINES = {
    "16-mixed": "fp16-mixed",
    "bf16-mixed": "bf16-mixed",
    "16-true": "fp16-true",
    "bf16-true": "bf16-true",
}
"""What DeepSpeed and XLA make of a precision; their FP32 is measured as anybody's."""

_PROBES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], type[nn.Module]]] = {
    "matmul": (lambda: nn.Linear(256, 256), (256, 256), nn.Linear),
    "conv": (lambda: nn.Conv2d(64, 64, 3), (8, 64, 18, 18), nn.modules.conv._ConvNd),
    "rnn": (lambda: nn.LSTM(64, 64), (16, 8, 64), nn.RNNBase),
}
"""Kind of product -> a layer of it, the shape of its input, and the layers by which a model is known to have it."""


def compute_effective_precision(trainer: "Trainer") -> str:
    """The precision that a trainer asks for, as its device resolves it, before any step has run.

    The precision's string is not believed. The plugin that the trainer has converts a small layer and calls it in the
    plugin's own context on the trainer's device; dispatch tells the dtype of its products, and for FP32 tensors a
    canary tells whether they run in FP32, TF32 or BF16 under the settings in force. So ``"16-mixed"`` on a CPU is
    ``bf16-mixed``, as Lightning makes it, and CUDA's autocast on a CPU is ``fp32``, since PyTorch turns it off there.

    A model that the trainer has (from ``fit`` on) gives the dtype of the layer and its kinds: convolutions and
    recurrent layers have FP32 settings of their own, and kinds that differ are all named, as in ``fp32+tf32``. Without
    one it is a matrix product in the default dtype.

    What cannot be known here: what the model's own code does (casts, switches autocast off, custom kernels), which
    :class:`~trainables.adapters.lightning.AmpWandbCallback` observes over a step; and what engines with kernels of
    their own do: Transformer Engine, bitsandbytes, DeepSpeed and XLA are believed as they are configured.

    On a GPU this initializes CUDA, so that strategies which fork (``ddp_notebook``) cannot start afterwards.

    Args:
        trainer: of ``lightning.pytorch`` or ``pytorch_lightning``, fitting or not.

    Returns:
        a name of the ladder (``fp32``, ``tf32``, ``bf16-mixed``, ``fp16-mixed``, ``bf16-true``, ``fp16-true``); else
        ``fp64``; ``fp8`` (Transformer Engine); bitsandbytes' storage and compute dtype, as ``nf4-bf16``; or
        ``unknown`` where a plugin's layers do nothing that dispatch can see.
    """
    plugin: Any = trainer.precision_plugin
    module = trainer.lightning_module
    # Both packages, and users, subclass these; by name, none of them need be imported.
    kinds = {kind.__name__ for kind in type(plugin).__mro__}
    if "TransformerEnginePrecision" in kinds:
        return _transformer_engine(plugin, module)
    if "BitsandbytesPrecision" in kinds:
        return _bitsandbytes(plugin)
    if kinds & {"DeepSpeedPrecision", "XLAPrecision"} and plugin.precision in _ENGINES:
        return _ENGINES[plugin.precision]
    device = trainer.strategy.root_device
    return "+".join(sorted({_probe(plugin, module, device, kind) for kind in _kinds(module)}))


def _kinds(module: nn.Module | None) -> Iterable[str]:
    """Kinds of products that a model has layers for; a matrix product where nothing is known."""
    layers = list(module.modules()) if module is not None else []
    return [kind for kind, probe in _PROBES.items() if any(isinstance(m, probe[2]) for m in layers)] or ["matmul"]


def _probe(plugin: Any, module: nn.Module | None, device: torch.device, kind: str) -> str:
    """What a layer of a kind runs in under the plugin."""
    make, shape, _ = _PROBES[kind]
    with torch.random.fork_rng(devices=[]):  # a layer draws its weights
        layer = make().to(parameter_dtype(module))
    inputs = torch.zeros(shape, dtype=parameter_dtype(module), device=device)
    layer = plugin.convert_module(layer).to(device)
    with torch.no_grad(), MatrixFlops() as seen, plugin.train_step_context():
        layer(plugin.convert_input(inputs))
    return format_name(seen.by_format(device), parameter_dtype(layer)) or "unknown"


def parameter_dtype(module: nn.Module | None) -> torch.dtype:
    """The dtype of most of a model's floating-point parameters; the default dtype where it has none yet."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in module.parameters() if module is not None else ():
        if parameter.is_floating_point() and not nn.parameter.is_lazy(parameter):
            sizes[parameter.dtype] += parameter.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.get_default_dtype()


def format_name(flops: Counter[str], parameters: torch.dtype) -> str | None:
    """The name of what matrix products ran in: of the format with 90 % of them, else of each format with its share.

    Args:
        flops: format -> matrix FLOPs.
        parameters: dtype of the parameters.

    Returns:
        the name; ``None`` where there were no products.
    """
    total = flops.total()
    if not total:
        return None
    ran, most = flops.most_common(1)[0]
    if most < EFFECTIVE_SHARE * total:
        return ", ".join(f"{count / total:.0%} {name}" for name, count in flops.most_common())
    if "float8" in ran:
        return "fp8"
    return "fp64" if ran == "float64" else precision_name(ran, _short(parameters))


def _transformer_engine(plugin: Any, module: nn.Module | None) -> str:
    """FP8, unless the plugin leaves a model's layers as they are and none of them is Transformer Engine's."""
    parts = list(module.modules()) if module is not None else []
    has_engine = any("transformer_engine" in type(part).__module__ for part in parts)
    if plugin.replace_layers is False and parts and not has_engine:
        return precision_name(_short(plugin.fallback_compute_dtype), _short(plugin.weights_dtype))
    return "fp8"


def _bitsandbytes(plugin: Any) -> str:
    """What weights are stored in, and what their products are asked to run in."""
    layer = plugin._linear_cls.__name__.lower()
    stored = next((name for name in ("nf4", "fp4") if name in layer), "int8")
    return f"{stored}-{ {torch.bfloat16: 'bf16', torch.float16: 'fp16', torch.float32: 'fp32'}[plugin.dtype] }"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
