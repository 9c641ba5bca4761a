"""``ampsweep export``: the best trial's weights, configuration and verdicts, in a folder that can be loaded."""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.engine.parser import Parser, parse_known
from sweeps.search.checks import refuse
from trainables.ladder import LADDER
from trainables.loading import TaskError, find_task
from trainables.spec import EXPORT_FILE, PICKLE_FILE, TASK_FILE, WEIGHTS_FILE
from trainables.storage import Url, place

if TYPE_CHECKING:
    from analysis import Results
    from analysis.summary import Best


def export(argv: Sequence[str]) -> int:
    """The command: exports and says what and where to."""
    parser = Parser(
        prog="ampsweep export", description="The best trial's weights, configuration and verdicts, ready to load."
    )
    parser.add_argument("folder", metavar="DIR", help="the results' folder")
    parser.add_argument("target", metavar="TARGET", type=Path, help="a new or empty folder")
    parser.add_argument("--precision", choices=list(LADDER), help="the best trial of this precision; else of all")
    arguments = argparse.Namespace(**parse_known(parser, argv))
    best = write_export(arguments.folder, arguments.target, arguments.precision)
    print(f"{best.trial_id}, {best.precision}, {best.metric} {best.value:.4g}: exported to {arguments.target}")
    print(f'load it with: from trainables import load_exported; model = load_exported("{arguments.target}")')
    return 0


def write_export(folder: str, target: Path, precision: str | None = None) -> "Best":
    """Copies the best trial whose weights were kept to a folder, with all that belongs to it.

    Args:
        folder: of the results.
        target: new or empty.
        precision: look among its trials only.

    Raises:
        ResultsError: there are no such results, or no weights among them.
        SweepError: the target cannot be written, or something is in it.
    """
    from analysis import load

    results = load(folder)
    best = best_kept(results, precision)
    assert best.checkpoint is not None
    try:
        if target.exists() and any(target.iterdir()):
            refuse("target", "must be a new or empty folder", str(target), "name another one")
        target.mkdir(parents=True, exist_ok=True)
        _copy(place(best.checkpoint), target / WEIGHTS_FILE)
        (target / EXPORT_FILE).write_text(json.dumps(describe(results, best), indent=2, default=str) + "\n")
        _copy_task(results.sweeps[0]["task"], next(iter(results.folders.values())), target)
    except OSError as error:
        refuse("target", f"must be a folder that can be written ({error.strerror})", str(target), "name another one")
    return best


def _exists(file: Path | Url) -> bool:
    return file.is_file() if isinstance(file, Path) else file.exists()


def _copy(file: Path | Url, target: Path) -> None:
    if isinstance(file, Path):
        shutil.copyfile(file, target)
    else:
        target.write_bytes(file.read())


def best_kept(results: "Results", precision: str | None) -> "Best":
    """The best of the trials whose weights are there.

    Raises:
        ResultsError: there is none.
    """
    there = [isinstance(path, str) and _exists(place(path)) for path in results.trials["checkpoint"]]
    if not any(there):
        folder = next(iter(results.folders.values()))
        refuse(
            "results", "must hold a trial's weights", str(folder), "a completed one of search or confirm leaves them"
        )
    return replace(results, trials=results.trials[there]).best(precision)


def describe(results: "Results", best: "Best") -> dict[str, Any]:
    """What is known of an exported trial, as plain data."""
    verdicts = results.verdicts
    own = verdicts[verdicts["config_id"].isin([best.row["config_id"], "best"])]
    return {
        "sweep": best.sweep,
        "trial_id": best.trial_id,
        "task": results.sweeps[0]["task"],
        "config": best.config,
        "precision": best.precision,
        "seed": int(best.row["seed"]),
        "metric": best.metric,
        "value": best.value,
        "verdicts": json.loads(own.to_json(orient="records")),
    }


def _copy_task(task: str, folder: Path, target: Path) -> None:
    """A task that is a file or a function goes with its weights, which mean nothing without it."""
    if (folder / PICKLE_FILE).exists():
        shutil.copyfile(folder / PICKLE_FILE, target / PICKLE_FILE)
        return
    try:
        source = find_task(task)
    except TaskError:
        return
    if source.text is not None:
        (target / TASK_FILE).write_text(source.text, encoding="utf-8")
