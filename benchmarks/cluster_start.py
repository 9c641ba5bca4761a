"""The README's way to a cluster, timed: from `ray up` to the first trial's report.

    python -m benchmarks.cluster_start [--runs 3]

The machines are network namespaces on this one (``tests/cluster``; needs root, an SSH server and rsync): a head and two
workers of 2 CPUs, so that three Rays and the trials share the real processors. Real machines are set up first, which
takes minutes where PyTorch has to be installed; here it is there already.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from analysis import load
from analysis.schema import ResultsError
from benchmarks.timing import show, spread

ROOT = Path(__file__).parents[1]
SWEEP = "python -m sweeps.digits --gpus-per-trial 0 --num-trials 4 --precisions fp32 --stage search"
STEPS = ("ray up", "the dashboard answers", "the first report", "the sweep has ended", "ray down")


def main() -> None:
    """Launches the cluster as often as asked for, and prints when each step was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="clusters to launch, one after the other")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "cluster"))
    from lan import why_not

    reason = why_not()
    if reason is not None:
        print(f"benchmarks.cluster_start is left out: {reason}")
        return
    runs = [launch() for _ in range(arguments.runs)]
    rows = {step: spread([run[index] for run in runs]) for index, step in enumerate(STEPS)}
    show(f"Seconds since `ray up` was typed, {arguments.runs} runs", ("median s", "min", "max"), rows)


def launch() -> list[float]:
    """One cluster from `ray up` to `ray down`.

    Returns:
        the seconds after which each of :data:`STEPS` was done.
    """
    from lan import Lan, wait_for
    from launched import Launched

    lan = Lan([Path(sys.prefix), Path(sys.base_prefix), ROOT])
    try:
        results = lan.folder / "results"
        results.mkdir()
        cluster = Launched(lan, results)
        check(cluster.type(cluster.command("export RAY_AUTH_MODE=token")))
        began = time.perf_counter()
        seconds = []
        check(cluster.type(cluster.command("ray up")))
        seconds.append(time.perf_counter() - began)
        cluster.open_tunnel()
        seconds.append(time.perf_counter() - began)
        log = lan.folder / "job.log"
        job = cluster.begin(cluster.command("ray job submit", {"python -m sweeps.digits": SWEEP}), log)
        wait_for(lambda: has_report(results / "first"), 120, f"the first report\n{log.read_text()}")
        seconds.append(time.perf_counter() - began)
        if job.wait(300):
            raise SystemExit(log.read_text())
        seconds.append(time.perf_counter() - began)
        check(cluster.down())
        seconds.append(time.perf_counter() - began)
        return seconds
    finally:
        lan.close()


def check(done: "subprocess.CompletedProcess[str]") -> None:
    """Ends the benchmark where a command failed."""
    if done.returncode:
        raise SystemExit(f"{done.args}\n{done.stdout}\n{done.stderr}")


def has_report(folder: Path) -> bool:
    """Whether a trial of the search has reported."""
    try:
        return bool((load(folder).history["stage"] == "search").any())
    except ResultsError:
        return False


if __name__ == "__main__":
    main()
