"""A run on its way to MLflow."""

import contextlib
import json
import os
import posixpath
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# The store for files is the only one that many processes on several machines can share without a server; MLflow refuses
# it since it will not be developed further.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
# By itself MLflow asks a server that is not there for four minutes before it says so.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from trainables.mark import FOLDER, locked
from trainables.tracking import TrackedRun

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Addresses of databases that MLflow writes without a server."""

GOOD = ("completed", "pruned")
"""Ends that are no failure of a run."""

OWN_ID = "ampsweep.run_id"
"""The tag by which a run is found again."""

TABLES = "mlflow.loggedArtifacts"
"""MLflow's own tag, by which its pages know tables among files."""

LONGEST = 500
"""Letters of a parameter's value that every server takes."""


class RunTracker:
    """One run of MLflow; see :class:`trainables.tracking.Tracker`.

    It goes to ``MLFLOW_TRACKING_URI``, or else into files below the sweep's folder; its experiment is that of
    ``MLFLOW_EXPERIMENT_NAME``, or else the sweep's project.
    """

    _client: Any
    _id: str
    _step = 0

    def start(self, run: TrackedRun) -> None:
        """Begins a run, or goes on with the one that has its tag."""
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (Path(run.folder) / "mlruns").as_uri()
        with _alone(run) if uri.startswith(DATABASES) else contextlib.nullcontext():
            self._client = MlflowClient(uri)
            experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.project)
        is_file = urlsplit(uri).scheme in ("", "file")
        known = self._kept(run) if is_file else self._found(run, experiment)
        if known is not None:
            self._id = known
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {OWN_ID: run.run_id, "sweep": run.group, "stage": run.stage}
            self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            if is_file:
                _id_file(run).parent.mkdir(parents=True, exist_ok=True)
                _id_file(run).write_text(self._id)
        self._take(run.config)

    def _kept(self, run: TrackedRun) -> str | None:
        """The id of a run among files, where it has begun: to look for its tag would mean to read all of them."""
        with contextlib.suppress(OSError, MlflowException):
            return str(self._client.get_run(_id_file(run).read_text()).info.run_id)
        return None

    def _found(self, run: TrackedRun, experiment: str) -> str | None:
        """The id of the run that has the tag, where there is one."""
        found = self._client.search_runs([experiment], f"tags.`{OWN_ID}` = '{run.run_id}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _experiment(self, name: str) -> str:
        """The experiment's id; another process may make it at the same moment."""
        for _ in range(3):
            known = self._client.get_experiment_by_name(name)
            if known is not None:
                return str(known.experiment_id)
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as error:
                problem = error
        raise problem

    def _take(self, config: Mapping[str, Any]) -> None:
        """Hyperparameters become parameters; those that changed since, which MLflow refuses, become tags."""
        values = {taken(name): str(value)[:LONGEST] for name, value in config.items()}
        known = self._client.get_run(self._id).data.params
        new = [Param(name, value) for name, value in values.items() if name not in known]
        changed = [RunTag(f"now.{name}", value) for name, value in values.items() if known.get(name, value) != value]
        self._client.log_batch(self._id, params=new, tags=changed)

    def report(self, row: Mapping[str, Any]) -> None:
        """Logs a report's numbers, each as a metric over steps, and its texts as tags."""
        self._step, now = row["step"], int(time.time() * 1000)
        numbers = {name: value for name, value in row.items() if not isinstance(value, str)}
        metrics = [Metric(taken(name), float(value), now, self._step) for name, value in numbers.items()]
        tags = [RunTag(taken(name), value) for name, value in row.items() if isinstance(value, str)]
        self._client.log_batch(self._id, metrics=metrics, tags=tags)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keeps a table as a file of JSON, which MLflow shows as one by a tag."""
        file = f"{name}.json"
        self._client.log_dict(self._id, {"columns": list(columns), "data": [list(row) for row in rows]}, file)
        self._client.set_tag(self._id, TABLES, json.dumps([{"path": file, "type": "table"}]))

    def finish(self, status: str, figures: Mapping[str, Any]) -> None:
        """Puts the figures into metrics and tags, and ends the run."""
        now = int(time.time() * 1000)
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        metrics = [Metric(taken(name), float(value), now, self._step) for name, value in numbers.items()]
        tags = [RunTag(name, str(value)) for name, value in figures.items() if name not in numbers]
        self._client.log_batch(self._id, metrics=metrics, tags=tags)
        ended = {"running": "SCHEDULED", **dict.fromkeys(GOOD, "FINISHED")}
        self._client.set_terminated(self._id, ended.get(status, "FAILED"))

    def files(self) -> Iterable[Path]:
        """The run's files and its experiment's description, where no server has them."""
        if os.environ.get("MLFLOW_TRACKING_URI"):
            return []
        artifacts = self._client.get_run(self._id).info.artifact_uri
        run = Path(unquote(urlsplit(artifacts).path)).parent
        return [run.parent / "meta.yaml", *(file for file in run.rglob("*") if file.is_file())]


def _id_file(run: TrackedRun) -> Path:
    return Path(run.folder) / FOLDER / f"{run.run_id}.mlflow.id"


@contextlib.contextmanager
def _alone(run: TrackedRun) -> Iterator[None]:
    """Keeps the sweep's other processes out: two that make a database's tables at once both fail."""
    lock = locked(Path(run.folder) / FOLDER / "mlflow.lock")
    try:
        yield
    finally:
        os.close(lock)


def taken(name: str) -> str:
    """A name as MLflow takes it: of letters, digits and some marks, and a path of itself."""
    plain = re.sub(r"[^\w\-. :/]", "_", name)
    is_path = posixpath.normpath(plain) == plain and plain != "." and not plain.startswith(("..", "/"))
    return plain if is_path else "_" + plain.replace("/", "_")
