"""Where a run's results lie: in a folder, or in an object store with a copy on the driver's disk."""

import datetime
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from analysis.schema import ResultsError
from sweeps.engine.mirror import Mirror, refuse_store
from sweeps.engine.sweep import Sweep
from sweeps.search.checks import Unfinished, refuse
from trainables.storage import Url, is_url

if TYPE_CHECKING:
    from analysis import Results

COPIES = "working_dir_files"
"""Ray's folder, on a node, for its copies of the working directories of jobs."""


@dataclass(frozen=True)
class Home:
    """Where a run's results lie.

    Args:
        folder: that the driver writes.
        url: of the run in an object store; ``None`` where the folder is all there is.
        goes_on: whether the folder has been brought there from the URL.
    """

    folder: Path
    url: Url | None = None
    goes_on: bool = False

    def __str__(self) -> str:
        return str(self.folder) if self.url is None else self.url.shown

    @property
    def caution(self) -> str:
        """What is to be added where the results will not last; empty where they will."""
        if self.url is not None or COPIES not in self.folder.resolve().parts:
            return ""
        return ", which is Ray's copy of the job's folder and goes with the cluster: --storage names another place"

    @property
    def place(self) -> str:
        """What ``analysis.load`` takes."""
        return str(self.folder) if self.url is None else self.url.text

    def results(self) -> "Results":
        """What a run that has ended has measured.

        Raises:
            Unfinished: it cannot be read, as of a store that fails just now.
        """
        from analysis import load  # pandas, which nothing before needs

        try:
            return load(self.place)
        except ResultsError as error:
            raise Unfinished(f"{error}; the sweep has ended, and what it measured is kept there") from error

    def shared(self, name: str) -> str:
        """A file or folder as all nodes see it."""
        return str(self.folder.resolve() / name) if self.url is None else (self.url / name).text

    @contextmanager
    def kept(self, is_taken_back: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Has an object store follow what happens in the folder inside the ``with``.

        Args:
            is_taken_back: says in the end whether the run has never begun, and nothing is to stay of it.

        Raises:
            SweepError: it cannot be written, or another driver writes there.
            Unfinished: it cannot be written any more.
        """
        if self.url is None:
            yield
            return
        mirror: Mirror | None = None
        try:
            mirror = Mirror(self.folder, self.url, is_taken_back, self.goes_on)
            with mirror:
                yield
        finally:
            if mirror is None or mirror.is_whole:
                self.forget()

    def forget(self) -> None:
        """Removes the driver's copy of what an object store has."""
        if self.url is not None:
            shutil.rmtree(self.folder.parent, ignore_errors=True)


def new_home(sweep: Sweep) -> Home:
    """Where a new run's results go.

    Raises:
        SweepError: a run of that name is there already, or none can be.
    """
    # To the microsecond: a scheduler may start many sweeps of one name at once.
    name = sweep.run_name or f"{sweep.name}-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"
    if is_url(sweep.storage):
        return _new_in_store(sweep.storage, name)
    folder = Path(sweep.storage) / name
    try:
        is_new = not folder.exists() or not any(folder.iterdir())
        above = next(path for path in folder.parents if path.exists())
    except OSError as error:  # a file, or a name that is too long
        refuse("run_name", f"must name a folder in {sweep.storage} ({error.strerror})", name, "choose another name")
    if not is_new:
        refuse_used(sweep.storage, name)
    if not above.is_dir() or not os.access(above, os.W_OK):
        refuse("storage", f"must be a folder that can be written ({above} cannot)", sweep.storage, "name another one")
    return Home(folder)


def _new_in_store(storage: str, name: str) -> Home:
    url = Url(storage) / name
    try:
        is_used = not url.is_empty()  # whatever is there: a run that is taken back is deleted with all in its folder
    except (OSError, ValueError) as error:
        refuse_store(Url(storage), error)
    if is_used:
        refuse_used(Url(storage).shown, name)
    return home_in_store(url, name)


def home_in_store(url: Url, name: str, goes_on: bool = False) -> Home:
    """The home of a run in an object store, its folder on this disk not made yet.

    Args:
        url: of the run.
        name: of the run.
        goes_on: whether the folder will be brought there.
    """
    return Home(Path(tempfile.gettempdir()) / f"ampsweep-{secrets.token_hex(8)}" / name, url, goes_on)


def refuse_used(storage: str, name: str) -> NoReturn:
    """Refuses a run's name that is taken."""
    refuse("run_name", f"must be new in {storage}", name, "choose another name, or go on with it by --resume")
