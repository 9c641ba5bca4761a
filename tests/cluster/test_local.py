"""The README's way to a cluster, on real machines but for their hardware: namespaces with SSH, Ray's own launcher."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from lan import ROOT, Lan, wait_for, why_not
from launched import DASHBOARD, LAPTOP, WORKERS, Launched

from analysis import load
from analysis.schema import ResultsError

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(290),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
SWEEP = "python -m tests.cluster.sweep"
EPOCHS = list(range(1, 21))


@pytest.fixture
def launched() -> Iterator[Launched]:
    """The machines, switched on; ``clusters/local.yaml`` is not up yet."""
    lan = Lan([Path(sys.prefix), Path(sys.base_prefix), ROOT])
    try:
        results = lan.folder / "results"
        results.mkdir()
        cluster = Launched(lan, results)
        yield cluster
        cluster.close()
    finally:
        lan.close()


def history(folder: Path) -> pd.DataFrame:
    """What has been reported so far, read as from a laptop: while the sweep writes."""
    try:
        return load(folder).history
    except ResultsError:
        return pd.DataFrame({"trial_id": [], "epoch": []})


def figures(reports: pd.DataFrame) -> set[tuple]:
    """What tells reports apart, and what they said."""
    return set(zip(reports["trial_id"], reports["step"], reports["train_loss"], reports["val_loss"], strict=True))


def ended_on(folder: Path, node: str) -> pd.DataFrame:
    """The trials that have ended on a node."""
    trials = load(folder).trials
    return trials[trials["stage"].eq("search") & trials["node"].eq(node) & trials["ended_at"].notna()]


def test_a_sweep_from_a_laptop_survives_the_loss_of_a_machine(launched: Launched):
    lan, folder = launched.lan, launched.lan.folder / "results" / "first"
    generated = launched.type(launched.command("export RAY_AUTH_MODE=token"))
    assert generated.returncode == 0, generated.stderr
    up = launched.type(launched.command("ray up"))
    assert up.returncode == 0, up.stdout + up.stderr
    assert "Running" in launched.open_tunnel()

    log = lan.folder / "job.log"
    job = launched.begin(launched.command("ray job submit", {"python -m sweeps.digits": SWEEP}), log)
    refuse_without_token(launched)
    lose_and_return(launched, folder)
    assert job.wait(150) == 0, log.read_text()
    check_rows(folder)
    text = log.read_text()
    assert "cluster waits for the first of its 2 workers" in text  # `ray up` did not wait for them
    assert "results: " in text
    assert "Traceback" not in text
    watch_another(launched, folder.with_name("second"))

    down = launched.down()
    assert down.returncode == 0, down.stdout + down.stderr
    for name in ("head", *WORKERS):
        wait_for(lambda name=name: not lan.processes(name), 10, f"the end of {lan.processes(name)} on {name}")


def refuse_without_token(launched: Launched) -> None:
    """A job that comes without the token, or with another, is not run."""
    lan = launched.lan
    mark = lan.folder / "results" / "mark"
    job = f"ray job submit --address {DASHBOARD} -- touch {mark}"
    for refused in (
        launched.type(job, token=False),
        launched.type(f"HOME=/tmp RAY_AUTH_TOKEN={'0' * 64} {job}"),
        launched.type(f"HOME=/tmp {job}"),
    ):
        assert refused.returncode != 0, refused.stdout
        assert "token" in (refused.stdout + refused.stderr).lower(), refused.stderr
    assert not mark.exists()
    from_afar = lan.run(LAPTOP[0], "python", "-c", "import socket; socket.create_connection(('10.99.0.10', 8265), 5)")
    assert "Connection refused" in from_afar.stderr


def lose_and_return(launched: Launched, folder: Path) -> None:
    """Switches a worker off while trials run on it, and on again; until then nothing reported goes away."""
    lan, name = launched.lan, "second"
    wait_for(lambda: len(history(folder)) > 0, 90, "the first report")
    wait_for(lambda: len(ended_on(folder, name)) >= 1 and len(ended_on(folder, "first")) >= 1, 60, f"trials on {name}")
    wait_for(lambda: any("ray::TuneTrial." in line for line in lan.processes(name)), 10, f"a trial running on {name}")
    before = history(folder)
    lan.power_off(name)
    off = pd.Timestamp.now(tz="UTC")
    wait_for(lambda: len(history(folder)) > len(before) + 4, 30, "reports of the other worker")
    assert figures(before) <= figures(history(folder))
    lan.power_on(name, WORKERS[name])
    wait_for(lambda: (pd.to_datetime(ended_on(folder, name)["started_at"], utc=True) > off).any(), 120, f"{name} again")


def watch_another(launched: Launched, folder: Path) -> None:
    """Runs a script of the project's from the laptop's terminal; its probe is enough here."""
    briefly = {" -- ": " -- --gpus-per-trial 0 --stage probe --precisions fp32 "}
    watched = launched.type(launched.command("ray submit", briefly))
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert list(load(folder).trials["status"]) == ["completed"]


def check_rows(folder: Path) -> None:
    """Every trial ended, and every epoch of it is there once."""
    results = load(folder)
    searched = results.trials.query("stage == 'search'")
    assert list(searched["status"]) == ["completed"] * 24, searched[["trial_id", "status", "status_reason", "node"]]
    assert set(searched["node"]) == set(WORKERS)
    assert searched["ended_at"].notna().all()
    for _, reports in results.history.groupby("trial_id"):
        assert sorted(reports["epoch"]) == EPOCHS
        assert reports.sort_values("epoch")["step"].is_monotonic_increasing
    written = [json.loads(line) for file in (folder / "journal").iterdir() for line in file.read_text().splitlines()]
    reports = [(row["trial_id"], row["step"]) for row in written if row["kind"] == "report"]
    assert len(reports) == len(set(reports)) == len(results.history) == 24 * len(EPOCHS)
