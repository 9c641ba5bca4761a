"""What progress shows, counted from rows, on a terminal and without one."""

import errno
import io
import os
import sys

import pytest
from rich.console import Console

from sweeps.engine.progress import Progress, Tally, plain_every_s


def trial(trial_id: str, status: str, precision: str = "fp32") -> dict:
    return {"trial_id": trial_id, "status": status, "precision": precision}


def test_tally_counts_states_and_keeps_the_best_of_each_precision():
    tally = Tally("search", 4, "val_accuracy", "max")
    for row in (trial("a", "running"), trial("b", "running", "bf16-mixed"), trial("c", "running")):
        tally.saw("trial", row)
    for trial_id, value in (("a", 0.5), ("b", 0.75), ("a", 0.25), ("c", float("nan")), ("c", None)):
        tally.saw("report", {"trial_id": trial_id, "val_accuracy": value})
    tally.saw("trial", {"trial_id": "a", "status": "pruned"})
    assert tally.num_done == 1
    line = tally.line()
    assert "1/4" in line
    assert "1 pruned, 2 running" in line
    assert "best val_accuracy: bf16-mixed 0.75, fp32 0.5" in line
    assert "left" in line


def test_the_best_is_the_lowest_where_lower_is_better():
    tally = Tally("search", 1, "val_loss", "min")
    tally.saw("trial", trial("a", "running"))
    for value in (0.5, 0.25, 0.75):
        tally.saw("report", {"trial_id": "a", "val_loss": value})
    assert "fp32 0.25" in tally.line()


class Full(io.StringIO):
    """A log on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_cannot_be_shown_costs_the_sweep_nothing(is_terminal: bool):
    with Progress(Console(file=Full(), force_terminal=is_terminal)) as progress:
        progress.stage("search", 1, "one")
        progress.saw("trial", trial("a", "completed"))
        progress.say("done")


def test_a_reader_that_has_gone_interrupts(monkeypatch: pytest.MonkeyPatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, Progress(Console(file=pipe)) as progress:
        monkeypatch.setattr(sys, "stdout", pipe)  # whose file rich replaces
        with pytest.raises(KeyboardInterrupt):
            progress.say("nobody reads this")


def test_timings_count_beside_trials():
    tally = Tally("confirm", 2)
    tally.saw("trial", trial("a", "completed"))
    tally.saw("timing", {"block_id": "b", "status": "completed"})
    assert tally.num_done == 2
    assert "left" not in tally.line()


def show(is_terminal: bool) -> str:
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=is_terminal, width=60)) as progress:
        progress.stage("search", 2, "two trials")
        progress.ranks_by("val_accuracy", "max")
        progress.saw("trial", trial("a", "running"))
        progress.saw("trial", trial("a", "completed"))
        progress.stage("confirm", 1, "one more")
        progress.saw("trial", trial("b", "completed"))
    return out.getvalue()


def test_without_a_terminal_there_are_only_plain_lines():
    text = show(is_terminal=False)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["search", "search", "confirm", "confirm"]
    assert lines[1] == "search  1/2 | 1 completed"  # it has ended, so that nothing is left
    assert lines[3] == "confirm 1/1 | 1 completed"


def test_lines_of_a_log_come_seldomer_with_the_hours():
    assert [plain_every_s(stage_s) for stage_s in (0, 100, 500, 3000, 1e6)] == [5, 5, 10, 60, 60]


def test_a_log_has_a_line_before_the_first_trial_s_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sweeps.engine.progress.plain_every_s", lambda stage_s: 0)
    out = io.StringIO()
    with Progress(Console(file=out)) as progress:
        progress.stage("search", 2, "two trials")
        progress.ranks_by("val_accuracy", "max")
        progress.saw("trial", trial("a", "running"))
    assert out.getvalue().splitlines()[1:] == ["search  0/2 | 1 running"]


def test_a_terminal_is_redrawn_and_keeps_a_line_of_each_stage():
    text = show(is_terminal=True)
    assert "\x1b[" in text
    assert "search  1/2 | 1 completed" in text
    assert "confirm 1/1 | 1 completed" in text
