"""What measured rates mean for the precisions: facts to findings, nothing else."""

from collections.abc import Iterator

from sweeps.engine.doctor.facts import Finding, Machine, Measured
from sweeps.engine.doctor.words import count
from trainables.ladder import LADDER
from trainables.probe import HOPELESS
from trainables.rates import FORMATS, MatrixRate

NO_GAIN = 1.2
"""A format whose products are not that many times as fast as FP32's gains nothing that shows in a step."""

UNSTEADY = 2.0
"""Half of the products took at least that many times as long as the fastest: something else ran."""


def rate_findings(measured: Measured, machine: Machine | None) -> Iterator[Finding]:
    """What stands about one type of device in the report, beside its rates.

    Args:
        measured: its rates.
        machine: that it is in, where that could be looked at.
    """
    if measured.error is not None:
        problem = f"{measured.device} could not be measured: {measured.error.reason}"
        busy = measured.error.timed_out
        remedy = "it is busy: measure later" if busy else "mend this first: trials there would fail in the same way"
        yield Finding("rates", measured.device, "not measured", problem, remedy, not busy)
    for name in FORMATS:
        rates = [rate for rate in measured.rates if rate.format == name and rate.reason is None]
        if rates:
            yield from _honest(rates[0])
            yield from _gain(max(rates, key=lambda rate: rate.against_fp32 or 0))
    yield from _steady(measured)
    if machine is not None:
        yield from _kernels(measured, machine)


def _honest(rate: MatrixRate) -> Iterator[Finding]:
    """Whether a format's products really run in it."""
    if rate.ran is not None and rate.ran != FORMATS[rate.format]:
        problem = f"products asked for in {rate.format} run in {rate.ran} on {rate.device}"
        remedy = "look for variables such as NVIDIA_TF32_OVERRIDE and ONEDNN_DEFAULT_FPMATH_MODE, and unset them"
        yield Finding("rates", f"{rate.format} on {rate.device}", rate.ran, problem, remedy)


def _gain(rate: MatrixRate) -> Iterator[Finding]:
    """Whether a format is worth trying, judged where it does best."""
    ratio = rate.against_fp32
    if rate.format == "fp32" or ratio is None or ratio >= NO_GAIN:
        return
    where = f"on {rate.device}" + (f" with {count(rate.num_threads, 'thread')}" if rate.num_threads else "")
    precisions = " and ".join(p.name for p in LADDER.values() if p.compute == FORMATS[rate.format])
    if ratio * HOPELESS < 1:
        problem = f"{rate.format} products are {1 / ratio:.2g} times slower than fp32 {where}"
        remedy = f"leave {precisions} out of --precisions; the probe does so where whole steps are as slow"
    else:
        faster = "hardly faster" if ratio > 1 else "slower"
        problem = f"{rate.format} products are {faster} than fp32 {where} ({ratio:.2g}x)"
        remedy = f"expect no gain in speed from {precisions} here, only in memory"
    yield Finding("rates", f"{rate.format} on {rate.device}", f"{ratio:.2g}x", problem, remedy)


def _steady(measured: Measured) -> Iterator[Finding]:
    spreads = [
        rate.best_flops_per_s / rate.flops_per_s
        for rate in measured.rates
        if rate.best_flops_per_s and rate.flops_per_s
    ]
    if spreads and max(spreads) >= UNSTEADY:
        problem = (
            f"half of the products on {measured.device} took {max(spreads):.2g} times as long as the fastest, or more"
        )
        remedy = "end other work on it before confirm times anything; the rates are from the fastest"
        yield Finding("rates", measured.device, "unsteady", problem, remedy)


def _kernels(measured: Measured, machine: Machine) -> Iterator[Finding]:
    """Whether the library that serves the products makes use of the CPU."""
    served = {rate.format: rate.kernel for rate in measured.rates if rate.kernel is not None}
    bf16 = served.get("bf16", "")
    if bf16.startswith("oneDNN") and "amx_bf16" in (machine.instructions or ()) and "amx" not in bf16:
        problem = f"this CPU has AMX, but BF16 products run without it ({bf16})"
        remedy = "use Linux 5.16 or newer, and unset ONEDNN_MAX_CPU_ISA"
        yield Finding("rates", f"bf16 on {measured.device}", bf16, problem, remedy)
    if served.get("fp32", "").startswith("MKL") and machine.vendor == "AuthenticAMD":
        problem = "FP32 products are served by MKL, whose FP32 kernels are slow on AMD CPUs"
        remedy = (
            "do not take speed-ups over fp32 on this CPU for those on another: part of them is the baseline's fault"
        )
        yield Finding("rates", f"fp32 on {measured.device}", served["fp32"], problem, remedy)
