"""Sweeps on two kinds of CPU, and a third one that joins in confirm: python -m tests.sweeps.two_types FOLDER.

All is real, training and timing too, but the names of the nodes' CPUs. They share the processors of this machine, so
that nothing is said here about how fast anything is.
"""

import sys
from pathlib import Path
from typing import Any

from sweeps import Confirm, Sweep, choice

CPUS = {"left": "Left CPU 1", "right": "Right CPU 2"}


def declare(folder: Path) -> Sweep:
    return Sweep(
        name="mixed",
        task=f"{Path(__file__).parent / 'task_of_two.py'}:build_blocks",
        space={"learning_rate": choice([1e-2, 1e-3])},
        precisions=("fp32", "bf16-mixed"),
        searcher="grid",
        scheduler="fifo",
        num_trials=4,
        max_epochs=2,
        route="default",
        confirm=Confirm(num_seeds=2),
        storage=str(folder),
        run_name="run",
    )


if __name__ == "__main__":
    import pytest

    from sweeps import run
    from sweeps.engine.confirm import Confirmation
    from tests.brief_timing import time_briefly
    from tests.sweeps.nodes import Nodes

    time_briefly(pytest.MonkeyPatch())
    nodes = Nodes()
    for name, cpu in CPUS.items():
        nodes.add(name, num_cpus=1, cpu=cpu)
    begin = Confirmation.__init__

    def join_and_begin(*arguments: Any) -> None:
        nodes.add("late", num_cpus=1, cpu="Late CPU 3")
        begin(*arguments)

    Confirmation.__init__ = join_and_begin  # type: ignore[method-assign]
    run(declare(Path(sys.argv[1])))
