"""What a trainer's precision resolves to on this machine's CPU; parts that need a GPU are said to be stand-ins."""

import types
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import lightning.pytorch as lightning
import pytest
import pytorch_lightning
import torch
from lightning.fabric.connector import _PRECISION_INPUT_INT, _PRECISION_INPUT_STR, _PRECISION_INPUT_STR_ALIAS
from lightning.pytorch.plugins.precision import (
    BitsandbytesPrecision,
    DeepSpeedPrecision,
    DoublePrecision,
    FSDPPrecision,
    HalfPrecision,
    MixedPrecision,
    Precision,
    TransformerEnginePrecision,
)
from torch import nn

from trainables import products
from trainables.adapters.lightning_observe import is_compiled
from trainables.adapters.lightning_precision import compute_effective_precision, format_name

ON_A_CPU = {
    None: "fp32",
    "32-true": "fp32",
    "32": "fp32",
    32: "fp32",
    "bf16-mixed": "bf16-mixed",
    "bf16": "bf16-mixed",
    "16-mixed": "bf16-mixed",  # as Lightning makes it
    "16": "bf16-mixed",
    16: "bf16-mixed",
    "bf16-true": "bf16-true",
    "16-true": "fp16-true",
    "64-true": "fp64",
    "64": "fp64",
    64: "fp64",
}
WITHOUT_ENGINE = ("transformer-engine", "transformer-engine-float16")


@pytest.fixture
def trainer_of() -> Callable[..., lightning.Trainer]:
    """A trainer on the CPU, which has nothing but what is given."""

    def make(package: types.ModuleType = lightning, **arguments: Any) -> lightning.Trainer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return package.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, **arguments)

    return make


def with_plugin(trainer: lightning.Trainer, plugin: Any, module: nn.Module | None = None) -> lightning.Trainer:
    """A trainer with a plugin that Lightning would refuse on a CPU, and perhaps a model."""
    trainer.strategy.precision_plugin = plugin
    trainer.strategy._lightning_module = module
    return trainer


def test_every_precision_of_lightning_is_among_these() -> None:
    accepted = {*get_args(_PRECISION_INPUT_STR), *get_args(_PRECISION_INPUT_INT), *get_args(_PRECISION_INPUT_STR_ALIAS)}
    assert accepted == {*ON_A_CPU, *WITHOUT_ENGINE} - {None}


@pytest.mark.parametrize("package", [lightning, pytorch_lightning])
@pytest.mark.parametrize(("asked", "name"), ON_A_CPU.items())
def test_what_a_precision_resolves_to(trainer_of: Any, package: types.ModuleType, asked: Any, name: str) -> None:
    assert compute_effective_precision(trainer_of(package, precision=asked)) == name


@pytest.mark.parametrize("asked", ["fp8", "float16", "mixed", "", 8, True, "32-mixed"])
def test_lightning_refuses_what_it_does_not_know(trainer_of: Any, asked: Any) -> None:
    with pytest.raises(ValueError, match="is invalid"):
        trainer_of(precision=asked)


@pytest.mark.parametrize(
    ("plugin", "name"),
    [
        (Precision(), "fp32"),
        (DoublePrecision(), "fp64"),
        (HalfPrecision("bf16-true"), "bf16-true"),
        (HalfPrecision("16-true"), "fp16-true"),
        (MixedPrecision("bf16-mixed", "cpu"), "bf16-mixed"),
        (MixedPrecision("16-mixed", "cpu"), "fp16-mixed"),
        (FSDPPrecision("bf16-true"), "bf16-true"),
        (FSDPPrecision("32-true"), "fp32"),
    ],
)
def test_plugins_are_taken_as_they_are(trainer_of: Any, plugin: Precision, name: str) -> None:
    assert compute_effective_precision(trainer_of(plugins=[plugin])) == name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: MixedPrecision("bf16-mixed", "cuda"),
        lambda: MixedPrecision("16-mixed", "cuda"),
        lambda: FSDPPrecision("bf16-mixed"),
    ],
)
def test_autocast_for_cuda_does_nothing_on_a_cpu(trainer_of: Any, make: Callable[[], Precision]) -> None:
    trainer = trainer_of(plugins=[make()])
    assert "mixed" in trainer.precision
    assert compute_effective_precision(trainer) == "fp32"


class SaysBf16(Precision):
    precision = "bf16-mixed"


class SaysFp32(Precision):
    precision = "32-true"

    def forward_context(self) -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16)


class DropsLayers(Precision):
    def convert_module(self, module: nn.Module) -> nn.Module:
        return nn.Identity()


@pytest.mark.parametrize(
    ("plugin", "name"), [(SaysBf16(), "fp32"), (SaysFp32(), "bf16-mixed"), (DropsLayers(), "unknown")]
)
def test_what_a_plugin_does_counts_and_not_what_it_is_called(trainer_of: Any, plugin: Precision, name: str) -> None:
    assert compute_effective_precision(trainer_of(plugins=[plugin])) == name


def test_the_default_dtype_counts(trainer_of: Any) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert compute_effective_precision(trainer_of(precision="32-true")) == "fp64"
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("dtype", "asked", "name"),
    [
        (torch.bfloat16, "32-true", "bf16-true"),
        (torch.float64, "bf16-mixed", "fp64"),  # autocast leaves FP64 alone
        (torch.float64, "bf16-true", "bf16-true"),
    ],
)
def test_a_models_own_dtype_counts(trainer_of: Any, dtype: torch.dtype, asked: str, name: str) -> None:
    trainer = trainer_of(precision=asked)
    assert (
        compute_effective_precision(with_plugin(trainer, trainer.precision_plugin, nn.Linear(2, 2, dtype=dtype)))
        == name
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (None, "fp32"),
        (nn.ReLU(), "fp32"),
        (nn.Linear(2, 2), "fp32"),
        (nn.ConvTranspose1d(2, 2, 1), "tf32"),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2)), "fp32+tf32"),
        (nn.GRU(2, 2), "bf16-mixed"),
    ],
)
def test_each_kind_of_layer_has_its_own_fp32(
    trainer_of: Any, monkeypatch: pytest.MonkeyPatch, model: nn.Module | None, name: str
) -> None:
    """As on an NVIDIA GPU; the canary is a stand-in, since this machine has none."""
    inner = {"matmul": "float32", "conv": "tf32", "rnn": "bfloat16"}
    monkeypatch.setattr(products, "canary", lambda kind, shapes, device, dtype: inner[kind])
    assert compute_effective_precision(with_plugin(trainer_of(), Precision(), model)) == name


def test_matrix_settings_count_as_far_as_this_cpu_follows_them(trainer_of: Any) -> None:
    before = torch._C._get_fp32_precision_getter("mkldnn", "matmul")
    torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")
    try:
        ones = torch.full((256, 256), 1 + 2**-9 + 2**-12)
        narrowed = bool((ones @ torch.eye(256) != ones).any())
        name = compute_effective_precision(trainer_of())
    finally:
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", before)
    assert (name == "fp32") is not narrowed


def test_looking_disturbs_nothing(trainer_of: Any) -> None:
    trainer, model = trainer_of(precision="bf16-true"), nn.Linear(4, 4)
    with_plugin(trainer, trainer.precision_plugin, model)
    before = torch.get_rng_state(), model.weight.clone()
    compute_effective_precision(trainer)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(model.weight, before[1])
    assert (torch.get_default_dtype(), torch.is_autocast_enabled("cpu")) == (torch.float32, False)


@pytest.mark.parametrize("asked", WITHOUT_ENGINE)
def test_transformer_engine_is_refused_where_it_is_not_installed(trainer_of: Any, asked: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="transformer_engine"):
        trainer_of(precision=asked)


@pytest.mark.parametrize(
    ("replace_layers", "model", "name"),
    [(None, None, "fp8"), (None, nn.Linear(2, 2), "fp8"), (False, None, "fp8"), (False, nn.Linear(2, 2), "bf16-true")],
)
def test_transformer_engine_is_fp8_in_its_own_layers(
    trainer_of: Any, replace_layers: bool | None, model: nn.Module | None, name: str
) -> None:
    """Lightning's plugin without its constructor, which needs a package that needs an NVIDIA GPU."""
    plugin = TransformerEnginePrecision.__new__(TransformerEnginePrecision)
    plugin.weights_dtype = plugin.fallback_compute_dtype = torch.bfloat16
    plugin.replace_layers = replace_layers
    assert compute_effective_precision(with_plugin(trainer_of(), plugin, model)) == name


@pytest.mark.parametrize(
    ("layer", "dtype", "name"),
    [
        ("_NF4Linear", torch.bfloat16, "nf4-bf16"),
        ("_NF4DQLinear", torch.float16, "nf4-fp16"),
        ("_FP4Linear", torch.float32, "fp4-fp32"),
        ("_Linear8bitLt", torch.float16, "int8-fp16"),
        ("_Int8LinearInference", torch.float16, "int8-fp16"),
    ],
)
def test_bitsandbytes_is_storage_and_compute(trainer_of: Any, layer: str, dtype: torch.dtype, name: str) -> None:
    """Lightning's plugin without its constructor, which needs a package for NVIDIA GPUs; the names are its layers'."""
    plugin = BitsandbytesPrecision.__new__(BitsandbytesPrecision)
    plugin._linear_cls, plugin.dtype = type(layer, (nn.Linear,), {}), dtype
    assert compute_effective_precision(with_plugin(trainer_of(), plugin)) == name
    with pytest.raises(RuntimeError, match="only supported on CUDA"):
        trainer_of(plugins=[plugin])


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("32-true", "fp32"),
        ("bf16-mixed", "bf16-mixed"),
        ("16-mixed", "fp16-mixed"),
        ("bf16-true", "bf16-true"),
        ("16-true", "fp16-true"),
    ],
)
def test_deepspeed_is_believed(trainer_of: Any, asked: Any, name: str) -> None:
    """Its strategy needs a GPU; the plugin is real."""
    assert compute_effective_precision(with_plugin(trainer_of(), DeepSpeedPrecision(asked))) == name


@pytest.mark.parametrize(
    ("flops", "parameters", "name"),
    [
        ({}, torch.float32, None),
        ({"tf32": 9, "float32": 1}, torch.float32, "tf32"),
        ({"bfloat16": 3, "float32": 1}, torch.float32, "75% bfloat16, 25% float32"),
        ({"float16": 1}, torch.bfloat16, "fp16-mixed"),
        ({"float8_e4m3fn": 1}, torch.bfloat16, "fp8"),
        ({"float64": 1}, torch.float64, "fp64"),
    ],
)
def test_names_of_formats(flops: dict[str, int], parameters: torch.dtype, name: str | None) -> None:
    assert format_name(Counter(flops), parameters) == name


def compiled_method(module: type[nn.Module]) -> nn.Module:
    module.forward = torch.compile(module.forward, backend="eager")
    return module(2, 2)


class AnswersAnything(dict[str, Any]):
    """A configuration as some libraries make them."""

    def __getattr__(self, name: str) -> "AnswersAnything":
        return AnswersAnything()


def configured(module: nn.Module) -> nn.Module:
    module.settings = AnswersAnything()
    return module


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize(
    ("make", "compiled"),
    [
        (lambda: nn.Linear(2, 2), False),
        (lambda: configured(nn.Linear(2, 2)), False),
        (lambda: torch.compile(nn.Linear(2, 2), backend="eager"), True),
        (lambda: nn.Sequential(nn.ReLU(), torch.compile(nn.Linear(2, 2), backend="eager")), True),
        (lambda: nn.Sequential(compiled_in_place(nn.Linear(2, 2))), True),
        (lambda: compiled_method(type("Compiled", (nn.Linear,), {})), True),
    ],
)
def test_compiled_parts_are_noticed(make: Callable[[], nn.Module], compiled: bool) -> None:
    assert is_compiled(make()) is compiled
