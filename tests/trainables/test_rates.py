"""Matrix rates: labels that hold, ratios at one size, and nothing left behind."""

import pytest
import torch

from trainables import kernels, rates
from trainables.kernels import libraries, parse_verbose, serving_kernel
from trainables.rates import FORMATS, make_product, matrix_rates

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def narrow_everything() -> None:
    """What a script may have done before: FP32 products may run in BF16, and there are other threads and dtypes."""
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)


def test_every_format_is_measured_or_says_why_not_and_fp32_stays_ieee_whatever_the_process_allowed():
    narrow_everything()
    try:
        torch.manual_seed(5)
        state = torch.get_rng_state()
        measured = {rate.format: rate for rate in matrix_rates(CPU, seconds=0.2, num_threads=1)}
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_default_dtype() == torch.float64
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    assert list(measured) == list(FORMATS)
    for name in ("fp32", "bf16", "fp16"):
        rate = measured[name]
        assert (rate.ran, rate.num_threads, rate.reason) == (FORMATS[name], 1, None)
        assert 0 < rate.flops_per_s <= rate.best_flops_per_s
        assert rate.size <= measured["fp32"].size
    assert measured["fp32"].against_fp32 == 1.0
    for name in ("tf32", "fp8"):
        assert "NVIDIA" in measured[name].reason
        assert measured[name].flops_per_s is None


def test_a_slow_format_stops_at_a_small_size_and_is_compared_at_that_size(monkeypatch: pytest.MonkeyPatch):
    seconds = {"fp32": lambda size: 1e-9 * size**2, "bf16": lambda size: 1e-10 * size**2, "fp16": lambda size: size**2}
    asked: list[tuple[str, int]] = []

    def timed(name: str, size: int, *rest: object) -> list[float]:
        asked.append((name, size))
        return [3 * seconds[name](size), seconds[name](size), 2 * seconds[name](size)]

    monkeypatch.setattr(rates, "_times", timed)
    monkeypatch.setattr(rates, "SIZES", (8, 16, 32))
    measured = {rate.format: rate for rate in matrix_rates(CPU, seconds=1.0)}
    assert measured["fp16"].size == 8
    assert measured["fp32"].size == measured["bf16"].size == 32
    assert ("fp16", 16) not in asked
    assert measured["fp16"].against_fp32 == pytest.approx(1e-9)
    assert measured["bf16"].against_fp32 == pytest.approx(10)
    assert measured["bf16"].best_flops_per_s == pytest.approx(2 * 32**3 / (1e-10 * 32**2))
    assert measured["bf16"].flops_per_s == pytest.approx(measured["bf16"].best_flops_per_s / 2)


def test_a_format_that_fails_says_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch):
    def timed(name: str, size: int, *rest: object) -> list[float]:
        if name == "fp16" or (name == "bf16" and size == 16):
            raise RuntimeError('"addmm" not implemented for Half')
        return [1e-6]

    monkeypatch.setattr(rates, "_times", timed)
    monkeypatch.setattr(rates, "SIZES", (8, 16))
    measured = {rate.format: rate for rate in matrix_rates(CPU, seconds=1.0)}
    assert "not implemented for Half" in measured["fp16"].reason
    assert (measured["bf16"].size, measured["bf16"].reason) == (8, None)
    assert measured["fp32"].size == 16


@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02), ("fp16", 0.003), ("fp8", 0.08)])
def test_the_timed_product_is_the_product(name: str, tolerance: float):
    torch.manual_seed(0)
    result = make_product(name, 64, CPU)().double()
    torch.manual_seed(0)
    left, right = (torch.randn(64, 64) for _ in range(2))
    exact = left.double() @ right.double()
    assert (result - exact).norm() / exact.norm() < tolerance


def test_a_product_tells_which_kernel_serves_it_and_prints_nothing(capfd: pytest.CaptureFixture[str]):
    product = make_product("fp32", 128, CPU)
    product()
    kernel = serving_kernel(product, CPU)
    if "MKL" in libraries() or "oneDNN" in libraries():
        assert kernel is None or kernel.split()[0] in ("MKL", "oneDNN")
    if libraries().get("BLAS") == "mkl":
        assert kernel is not None
    print("after")
    assert capfd.readouterr().out == "after\n"


@pytest.mark.parametrize(
    ("printed", "kernels"),
    [
        (
            "MKL_VERBOSE oneMKL 2024.0 for Intel(R)\n"
            "MKL_VERBOSE SGEMM(N,N,256,256,0x7f) 10.5ms CNR:OFF\nMKL_VERBOSE SGEMM(T,N,1,2) 500.00us CNR:OFF\n",
            {"MKL SGEMM": 11.0},
        ),
        (
            "onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2\n"
            "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx10_1_512_amx,undef,src:bf16,,256x256,0.25\n"
            "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,9,7.5\n"
            "onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward,src:f32,,mb64_ic1,1.5e-02\n",
            {"oneDNN brg_matmul:avx10_1_512_amx": 0.25, "oneDNN jit:avx512_core": 0.015},
        ),
        ("dnnl_verbose,exec,cpu,matmul,gemm:jit,undef,src_f32\n", {"oneDNN gemm:jit": 0.0}),
        ("", {}),
    ],
)
def test_verbose_lines_name_the_kernels_and_their_times(printed: str, kernels: dict[str, float]):
    assert parse_verbose(printed) == pytest.approx(kernels)


def test_a_step_names_the_kernels_that_take_a_tenth_of_it(monkeypatch: pytest.MonkeyPatch):
    lines = [f"dnnl_verbose,exec,cpu,matmul,{name},undef,{ms}\n" for name, ms in (("a", 0.5), ("b", 8), ("c", 1.5))]
    monkeypatch.setattr(kernels, "_printed", lambda products: "".join(lines))
    assert serving_kernel(lambda: None, CPU) == "oneDNN b, oneDNN c"


def test_fp8_on_a_gpu_without_it_says_which_one_has_it(monkeypatch: pytest.MonkeyPatch):
    """A mock of the one question that only a GPU can answer."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))
    assert "sm_89" in rates._unsupported("fp8", torch.device("cuda", 0))
    assert rates._unsupported("tf32", torch.device("cuda", 0)) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert all("sm_80" in rates._unsupported(name, torch.device("cuda", 0)) for name in ("tf32", "bf16"))


@needs_cuda
def test_rates_of_a_gpu_run_in_what_they_are_called():
    device = torch.device("cuda", 0)
    measured = {rate.format: rate for rate in matrix_rates(device, seconds=1.0)}
    capability = torch.cuda.get_device_capability(device)
    expected = ["fp32", "fp16"] + (["tf32", "bf16"] if capability >= (8, 0) else [])
    expected += ["fp8"] if capability >= (8, 9) else []
    for name in expected:
        assert (measured[name].reason, measured[name].ran, measured[name].num_threads) == (None, FORMATS[name], 0)
        assert measured[name].kernel == "cuBLAS"
    assert measured["fp16"].against_fp32 > 1.2
