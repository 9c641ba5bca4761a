"""The example notebooks run from top to bottom, and are kept without outputs."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from analysis import load

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


BRIEFLY = "import brief_timing, pytest; brief_timing.time_briefly(pytest.MonkeyPatch())"
"""What the kernel does before it runs the notebook."""


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_left_out(path: Path) -> None:
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.ray
def test_a_model_of_one_s_own_comes_to_a_verdict(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    notebook = read(ROOT / "examples" / "own_model.ipynb")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(BRIEFLY))
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    html = [output.get("data", {}).get("text/html", "") for output in shown]
    tables = [each for each in html if 'class="dataframe"' in each]
    (run,) = (tmp_path / "runs").iterdir()
    results = load(run)
    assert dict(results.trials.groupby("stage").size()) == {"probe": 2, "search": 4, "confirm": 4}
    assert all(trial in tables[0] for trial in ("probe", "search", "confirm"))
    assert results.verdicts["verdict"].iloc[0] in tables[1]
    accuracy = float(shown[-1].data["text/plain"].rpartition(",")[2].strip(" )"))
    assert accuracy == pytest.approx(results.trials["val_accuracy"].max(), abs=0.01)
    assert accuracy > 0.5
