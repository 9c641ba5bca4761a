"""Which run an interrupted sweep goes on with."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from analysis.remote import fetch
from analysis.schema import SWEEP_FILE, ResultsError
from sweeps.engine.folders import Home, home_in_store
from sweeps.engine.mirror import refuse_store
from sweeps.engine.sweep import Sweep
from sweeps.search.checks import refuse
from trainables.storage import Url, is_url


def find_run(sweep: Sweep) -> Home:
    """Where the run to go on with lies: the one named, else the sweep's newest that has not finished.

    Raises:
        SweepError: there is none, or it holds no results.
    """
    if is_url(sweep.storage):
        return _find_in_store(sweep)
    storage = Path(sweep.storage)
    if sweep.run_name is not None:
        folder = storage / sweep.run_name
        if not os.path.isfile(folder / SWEEP_FILE):  # or it is another user's
            refuse(
                "run_name", f"must be a run in {storage} for --resume", sweep.run_name, "leave --resume out to begin it"
            )
        return Home(folder)
    for folder in _newest_first(storage):
        recorded = _read(folder / SWEEP_FILE)
        if recorded.get("name") == sweep.name and recorded.get("ended_at") is None:
            return Home(folder)
    refuse(
        "resume",
        f"needs an unfinished run of {sweep.name!r} in {storage}",
        None,
        "leave --resume out to begin one",
    )


def _newest_first(storage: Path) -> list[Path]:
    """The runs, but for those that cannot be looked at, as another user's; ``glob`` would end at the first of these."""
    found = []
    with contextlib.suppress(OSError):
        for folder in storage.iterdir():
            with contextlib.suppress(OSError):
                found.append(((folder / SWEEP_FILE).stat().st_mtime, folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def _find_in_store(sweep: Sweep) -> Home:
    """As :func:`find_run`, and brings it to this disk."""
    storage = Url(sweep.storage)
    try:
        found = [storage / sweep.run_name] if sweep.run_name is not None else _unfinished(storage, sweep.name)
    except (OSError, ValueError) as error:
        refuse_store(storage, error)
    if not found:
        what = f"needs an unfinished run of {sweep.name!r} in {storage.shown}"
        refuse("resume", what, None, "leave --resume out to begin one")
    name = found[-1].name
    home = home_in_store(found[-1], name, goes_on=True)
    try:
        fetch(found[-1].text, home.folder)
    except ResultsError as error:
        home.forget()
        refuse(
            "run_name",
            f"must be a run in {storage.shown} for --resume ({error})",
            name,
            "leave --resume out to begin it",
        )
    return home


def _unfinished(storage: Url, name: str) -> list[Url]:
    """The sweep's runs that have not ended, the newest last."""
    found: list[Url] = []
    for url in storage.folders():
        try:
            recorded = _parsed((url / SWEEP_FILE).read())
        except FileNotFoundError:
            continue
        if recorded.get("name") == name and recorded.get("ended_at") is None:
            found.append(url)
    return sorted(found, key=lambda url: (url / SWEEP_FILE).changed_at())


def _read(file: Path) -> dict[str, Any]:
    try:
        return _parsed(file.read_bytes())
    except OSError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    """A declaration; nothing where it is something else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
