import io

import pytest
from journals import arm, run, timing, trial, write_sweep
from rich.console import Console

from analysis import load
from analysis.tables import print_report

SPREAD = (-0.002, 0.0, 0.002)
REASON = "fp8-rowwise needs a GPU of compute capability 8.9 or higher; this one has 8.0 and is named so in its driver"


def report(folder, width):
    out = io.StringIO()
    print_report(load(folder), Console(file=out, width=width))
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    records = [trial("p", stage="probe", precision="fp8-rowwise", status="unsupported", status_reason=REASON)]
    for number in range(2):
        failed = {"status": "out_of_memory", "status_reason": "[Errno 12] needs 90 GB"}
        records.append(trial(f"s{number}", stage="search", precision="fp16-mixed", **failed))
    for seed, gain in enumerate(SPREAD):
        records += [run("c1", seed, "fp32", 0.9, config={"width": 64}), run("c1", seed, "bf16-mixed", 0.9 + gain)]
        windows = [10.0 + 0.01 * seed] * 8
        arms = [arm("fp32", [20.0] * 8), arm("bf16-mixed", windows), arm("fp32", [20.0 + 0.1 * seed] * 8, is_copy=True)]
        records.append(timing("c1", seed, arms))
    records.append(timing("c1", 9, [], status="errored", status_reason="CUDA error"))
    return write_sweep(tmp_path, records)


@pytest.mark.parametrize("width", [80, 120])
def test_report_is_plain_text_with_nothing_cut_short(folder, width):
    text = report(folder, width)
    assert "\x1b" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    assert "PASS bf16-mixed against fp32, c1: 2.00x as fast as fp32 (1.99 to 2.00)" in flat
    assert "1.99 to 2.00 -0.005 to +0.005" in flat
    assert REASON.split(";")[0] in flat
    for words in (
        "out of memory 2 [Errno 12] needs 90 GB",
        "timing all errored 1 CUDA error",
        "Exploratory",
        "Best trial",
    ):
        assert words in flat


def test_report_of_an_empty_sweep(tmp_path):
    text = report(write_sweep(tmp_path), 80)
    assert "digits-1, val_accuracy (max), 0 trials" in text
    assert "No verdict: nothing was confirmed." in text


def test_report_of_several_sweeps_says_which(folder, tmp_path):
    other = write_sweep(tmp_path / "other", [run("c1", 0, "fp32", 0.5, val_f1=0.5)], run_name="other", metric="val_f1")
    out = io.StringIO()
    print_report(load(folder, other), Console(file=out, width=120))
    flat = " ".join(out.getvalue().split())
    assert "digits-1, val_accuracy (max) on H200" in flat
    assert "other, val_f1 (max) on H200" in flat


def test_every_baseline_side_by_side(tmp_path):
    records = []
    for seed, gain in enumerate(SPREAD):
        speeds = {"fp32": 20.0, "tf32": 12.5 + 0.01 * seed, "bf16-mixed": 10.0}
        records += [run("c1", seed, name, 0.9 + gain) for name in speeds]
        records.append(timing("c1", seed, [arm(name, [ms] * 8) for name, ms in speeds.items()]))
    declared = {"precisions": ["fp32", "tf32", "bf16-mixed"], "baselines": ["fp32", "tf32"]}
    text = report(write_sweep(tmp_path, records, **declared), 80)
    table = text[text.index("Against every baseline") :].splitlines()
    assert [line.split() for line in table[2:4]] == [["against", "against"], ["precision", "config", "fp32", "tf32"]]
    rows = {line.split()[0]: line.split() for line in table[4:12] if "c1" in line}
    assert rows["bf16-mixed"] == ["bf16-mixed", "c1", "2.00", "1.25"]
    assert rows["tf32"] == ["tf32", "c1", "1.60", "-"]


def test_one_baseline_needs_no_table_of_its_own(folder):
    assert "Against every baseline" not in report(folder, 80)


DEVICES = ("NVIDIA H200", "AMD EPYC 9R45 96-Core Processor [planted]")


def on_both(config, seed):
    """A pair on each of two device types, whose arms are of long names."""
    precisions = {"fp32": 20.0, "tf32": 12.0, "fp8-tensorwise": 9.0 + 0.01 * seed}
    for device in DEVICES:
        for name in precisions:
            yield run(config, seed, name, 0.9 + 0.001 * seed, device=device, val_loss=0.1, config={"width": 64}) | {
                "trial_id": f"{device}-{config}-{seed}-{name}"
            }
        arms = [arm(name, [ms] * 8, route="channels_last+onednn", kernel="MKL a") for name, ms in precisions.items()]
        arms += [arm(name, [25.0] * 8, is_default=True, route="default") for name in ("fp32", "tf32")]
        yield timing(config, seed, arms, device=device, block_id=f"{device}-{config}-{seed}")


def test_each_device_type_has_tables_of_its_own_that_fit_80_columns(tmp_path):
    records = [record for config in ("0123abcd", "4567cdef") for seed in range(3) for record in on_both(config, seed)]
    records.append(trial("p", stage="probe", precision="fp16-true", status="unsupported", device=DEVICES[1]))
    declared = {"precisions": ["fp32", "tf32", "fp8-tensorwise"], "baselines": ["fp32", "tf32"]}
    text = report(write_sweep(tmp_path, records, **declared), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for name in DEVICES:  # over verdicts, baselines and arms
        assert [line.strip() for line in lines].count(name) == (4 if name == DEVICES[1] else 3)
    body = text[: text.index("Best trial")]
    for word in ("channels_last+onednn", "0123abcd", "4567cdef", "fp8-tensorwise"):  # nowhere folded
        assert body.count(word) >= 4
        assert word[:-1] not in body.replace(word, "")
    assert len([line for line in lines if "fp8-tensorwise against" in line]) == 8  # each verdict's reason


def test_the_best_hyperparameters_reason_is_said_once(tmp_path):
    records = []
    for number in range(3):
        config = {name: float(number) for name in ("learning_rate", "weight_decay", "width")}
        for name in ("fp32", "bf16-mixed"):
            it = f"s{number}-{name}"
            columns = {"config": config, "val_accuracy": 0.5, "config_id": f"k{number}", "seed": number}
            records.append(trial(it, stage="search", status="completed", precision=name, device="H200", **columns))
            records.append({"kind": "report", "trial_id": it, "stage": "search", "step": 1, "val_accuracy": 0.5})
    text = " ".join(report(write_sweep(tmp_path, records), 80).split())
    sentence = "Only 3 configurations were tried in both fp32 and bf16-mixed; 8 are needed."
    assert text.count(sentence) == 1
    assert f"cannot tell: learning_rate, weight_decay, width in bf16-mixed and fp32: {sentence}" in text
