"""The folder of a new run."""

import datetime
import os
from pathlib import Path
from typing import NoReturn

from sweeps.engine.sweep import Sweep
from sweeps.search.checks import refuse


def run_folder(sweep: Sweep) -> Path:
    """Where a run's results go.

    Raises:
        SweepError: a run of that name is there already, or none can be.
    """
    if "://" in sweep.storage:
        refuse("storage", "must be a folder in this version", sweep.storage, "name one that all nodes see, such as NFS")
    name = sweep.run_name or f"{sweep.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
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
    return folder


def refuse_used(storage: str, name: str) -> NoReturn:
    """Refuses a run's name that is taken."""
    refuse("run_name", f"must be new in {storage}", name, "choose another name, or go on with it by --resume")
