"""Sweeps on simulated nodes: who gets which GPU, and what is seen of device types."""

import json
from collections import Counter
from pathlib import Path

import losing
import misplaced
import nodes
import pytest
import two_types

from analysis import load

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.timeout(290),
    pytest.mark.skipif(nodes.why_not() is not None, reason=str(nodes.why_not())),
]


def test_half_gpu_trials_share_every_gpu_by_twos_and_none_waits_while_one_is_free(tmp_path: Path):
    """64 trials at once on four nodes of eight GPUs each take minutes on two processors."""
    num_gpus = 8
    slots, num_trials = 8 * num_gpus, 10 * num_gpus
    ended = nodes.run_alone("tests.sweeps.held", tmp_path, 4, num_gpus, num_trials, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = load(tmp_path / "run")
    trials = results.trials
    assert list(trials["status"]) == ["completed"] * num_trials, trials["status_reason"].dropna().tolist()
    assert (trials["num_gpus"] == 0.5).all()
    accelerators = {"node0": "H100", "node1": "A10G", "node2": "H100", "node3": "A10G"}
    assert trials["device"].tolist() == [accelerators[node] for node in trials["node"]]
    gpus = list(zip(trials["node"], trials["val_gpu"], strict=True))
    assert set(gpus) == {(node, gpu) for node in accelerators for gpu in range(num_gpus)}
    moments = [(time, 1, gpu) for time, gpu in zip(trials["started_at"], gpus, strict=True)]
    moments += [(time, -1, gpu) for time, gpu in zip(trials["ended_at"], gpus, strict=True)]
    running: Counter[tuple[str, float]] = Counter()
    most = 0
    for _, change, gpu in sorted(moments):
        running[gpu] += change
        assert running[gpu] <= 2, gpu
        most = max(most, running.total())
    assert most == slots
    assert trials["val_process"].nunique() == slots  # none was started anew for the trials that waited
    types = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert [(each["device"], each["slots"]) for each in types] == [("A10G", slots // 2), ("H100", slots // 2)]
    for each in types:
        assert [len(hosts) for hosts in each["ran"]] == [1] * 6 + [2] * 3
        assert all(len(set(hosts)) == 1 for hosts in each["ran"])  # workers of one run share a node
        assert {accelerators[hosts[0]] for hosts in each["ran"]} == {each["device"]}


def test_each_device_type_is_probed_and_confirmed_and_no_pair_crosses(tmp_path: Path):
    ended = nodes.run_alone("tests.sweeps.two_types", tmp_path, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = load(tmp_path / "run")
    trials, cpus = results.trials, two_types.CPUS
    assert trials["status"].eq("completed").all(), trials[["trial_id", "status", "status_reason"]]
    assert trials["device"].tolist() == [cpus[node] for node in trials["node"]]
    probed = trials[trials["stage"] == "probe"]
    assert sorted(zip(probed["device"], probed["precision"], strict=True)) == [
        (cpu, precision) for cpu in cpus.values() for precision in ("bf16-mixed", "fp32")
    ]
    confirmed = trials[trials["stage"] == "confirm"]
    runs = confirmed.groupby(["device", "config_id", "seed"])["precision"].apply(sorted)
    assert runs.map(lambda precisions: precisions == ["bf16-mixed", "fp32"]).all()
    assert confirmed.groupby(["config_id", "seed"])["device"].apply(set).eq(set(cpus.values())).all()
    own = confirmed["trial_id"].str.endswith("-right-cpu-2")
    assert own.tolist() == (confirmed["device"] == "Right CPU 2").tolist()
    timings = results.timings
    assert timings["status"].eq("completed").all(), timings["status_reason"].dropna().tolist()
    assert timings["device"].tolist() == [cpus[node] for node in timings["node"]]
    assert timings.groupby(["block_id", "device"])["precision"].apply(len).eq(3).all()  # two arms and the copy
    assert set(zip(timings["block_id"], timings["device"], strict=True)) == {
        (block, cpu) for block in confirmed["block_id"] for cpu in cpus.values()
    }
    verdicts = results.verdicts.groupby("device")
    assert set(verdicts.groups) == set(cpus.values())
    assert all(set(rows["config_id"]) - {"best"} == set(confirmed["config_id"]) for _, rows in verdicts)


@pytest.mark.cluster
def test_trials_and_timed_pairs_go_on_where_they_were_however_often_their_node_goes(tmp_path: Path):
    ended = nodes.run_alone("tests.sweeps.losing", tmp_path, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lost = json.loads(ended.stdout.splitlines()[-1])
    assert lost == dict.fromkeys(("search", "timing", "confirm"), losing.TIMES)
    results = load(tmp_path / "run")
    trained = results.trials[results.trials["stage"] != "probe"]
    assert trained["status"].tolist() == ["completed"] * 4, trained["status_reason"].dropna().tolist()
    assert results.timings["status"].eq("completed").all(), results.timings["status_reason"].dropna().tolist()
    assert (results.history.groupby("trial_id")["epoch"].apply(list) == [[*map(float, range(1, 13))]] * 4).all()
    steps = Counter((tmp_path / "steps").read_text().splitlines())  # probe and searched trial have one seed
    searched = [steps[f"{trained['seed'].min()} {mixed}"] for mixed in (False, True)]
    assert all(losing.EPOCHS * losing.NUM_STEPS <= each < 64 for each in searched), steps  # 72 if begun anew


@pytest.mark.cluster
def test_a_trial_whose_precision_a_node_does_not_have_begins_again_elsewhere_if_it_can(tmp_path: Path):
    ended = nodes.run_alone("tests.sweeps.misplaced", tmp_path, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    both, right_alone = (json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{"))
    assert len(both) == len(right_alone) == misplaced.NUM_TRIALS
    assert {status for _, status in both.values()} == {"running"}, both
    assert {host for host, _ in both.values()} == {"left", "right"}
    for trial, (host, status) in right_alone.items():
        number = int(trial.removeprefix("trial-"))
        assert (host, status) == ("right", ("running", "unsupported")[number % 2])
