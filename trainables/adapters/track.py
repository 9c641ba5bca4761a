"""The process in which trackers run: ``python -m trainables.adapters.track``; :mod:`trainables.courier` starts it.

Every run has a thread for each of its trackers, so that one whose library hangs keeps no other waiting.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from trainables.mark import Mark, copy_up
from trainables.text import one_line
from trainables.tracked import LOST
from trainables.tracking import TrackedRun, Tracker

LINGER_S = 60.0
"""How long the process goes on once nobody sends any more."""

YIELDS = 10
"""By how much nicer this process and the libraries' own are than the trial, which needs the processors more."""

Answer = Callable[[dict[str, Any]], None]


class Clerk(threading.Thread):
    """Hands one run's messages to one tracker, in their order.

    Args:
        tracker: its name.
        run: the run.
        answer: takes what is to be said to the trial's process.
        done: is called when it has nothing more to do.
    """

    def __init__(self, tracker: str, run: TrackedRun, answer: Answer, done: Callable[[], None]) -> None:
        super().__init__(name=f"{tracker} {run.name}", daemon=True)
        self.messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.is_done = False
        self._tracker, self._run, self._answer, self._done = tracker, run, answer, done
        self._mark: Mark | None = None

    def run(self) -> None:
        """Works until the run is finished, or its tracker fails."""
        try:
            self._mark = Mark(self._tracker, self._run)
            for message in self._begun():
                self._hand_over(message, self._mark)
            if self._run.store is not None:
                self._copy_up(self._run.store, self._mark)
        except BaseException as error:  # SystemExit, too: libraries have been seen to raise it
            what = f"{type(error).__name__}: {one_line(str(error))[:300]}"
            self._warn(f"{what}; the run is not tracked there any further, and the sweep goes on")
        finally:
            if self._mark is not None:
                self._mark.release()
            self.is_done = True
            self._done()

    def _copy_up(self, store: str, mark: Mark) -> None:
        """Has the object store have what lies on this disk, which may go with the machine."""
        folder = self._run.folder
        try:
            copy_up([*self._to.files(), *mark.files()], folder, store)
        except (OSError, ValueError) as error:
            self._warn(f"files stay in {folder} on {socket.gethostname()} ({one_line(str(error))[:300]})")

    def _warn(self, what: str) -> None:
        self._answer({"warning": f"{self._tracker}: {what}"})

    def _begun(self) -> Iterator[dict[str, Any]]:
        """Begins the run, and gives the messages up to its end."""
        self._to: Tracker = import_module(f"trainables.adapters.track_{self._tracker}").RunTracker()
        remark = self._to.start(self._run)
        if remark is not None:
            self._warn(remark)
        while True:
            message = self.messages.get()
            yield message
            if message["do"] == "finish":
                return

    def _hand_over(self, message: dict[str, Any], mark: Mark) -> None:
        if message["do"] == "table":
            self._to.table(message["name"], message["columns"], message["rows"])
        elif message["do"] == "finish":
            self._to.finish(message["status"], message["figures"])
        elif mark.is_new(message["row"]):
            self._to.report(message["row"])
            mark.keep(message["row"])


class Desk:
    """Takes messages and gives them to the clerks of the runs.

    Args:
        answer: takes what is to be said to the trial's process.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._clerks: dict[int, list[Clerk]] = {}
        self._lock = threading.Lock()

    def take(self, message: dict[str, Any]) -> None:
        """Takes one message."""
        number = message["run"]
        if message["do"] == "start":
            run = TrackedRun(**message["tracked"])
            clerks = [Clerk(name, run, self._answer, lambda: self._tell(number)) for name in message["trackers"]]
            self._clerks[number] = clerks
            for clerk in clerks:
                clerk.start()
        for clerk in self._clerks.get(number, ()):
            if message["do"] != "start" and not clerk.is_done:
                clerk.messages.put(message)

    def _tell(self, number: int) -> None:
        """Says that a run is finished, once that is so with all of its trackers."""
        with self._lock:
            clerks = self._clerks.get(number)
            if clerks is not None and all(clerk.is_done for clerk in clerks):
                del self._clerks[number]
                self._answer({"finished": number})

    def close(self, seconds: float) -> None:
        """Ends the runs whose end nobody will tell, and waits for all, but no longer than that."""
        deadline = time.monotonic() + seconds
        status, reason = LOST
        figures = {"status": status, "status_reason": reason}
        for number in list(self._clerks):
            self.take({"do": "finish", "run": number, "status": status, "figures": figures})
        while self._clerks and time.monotonic() < deadline:
            time.sleep(0.05)


def main() -> None:
    """Serves the process that started this one, and ends soon after it."""
    if os.fork():
        os._exit(0)  # Ray ends the children of a worker that ends; this process is nobody's child
    os.nice(YIELDS)
    with contextlib.suppress(OSError):  # a machine that does not have the driver's directory
        os.chdir(sys.argv[1] or ".")
    commands, answers = own_pipes()
    lock = threading.Lock()

    def answer(what: dict[str, Any]) -> None:
        with lock, contextlib.suppress(OSError):  # nobody listens any more
            os.write(answers, json.dumps(what).encode() + b"\n")

    answer({"pid": os.getpid()})
    desk = Desk(answer)
    with os.fdopen(commands, "rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # a last line that was torn
                desk.take(json.loads(line))
    desk.close(LINGER_S)
    os._exit(0)  # not through the libraries' own handlers, which wait until all is uploaded


def own_pipes() -> tuple[int, int]:
    """The pipes that this process was given, in place of which libraries and their processes get none."""
    commands, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    return commands, answers


if __name__ == "__main__":
    main()
