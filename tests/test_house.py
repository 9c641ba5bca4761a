"""The house rules: who may import whom, and how long things may be."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "sweeps", "trainables")
MAX_FILE, MAX_FUNCTION = 300, 50


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in FILES.items()}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """Every node that runs, without what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            yield from (found for part in child.orelse for found in [part, *statements(part, inside_functions)])
        elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from statements(child, inside_functions)


def imports(name: str, inside_functions: bool) -> set[str]:
    """What a module imports: names of modules, and of what it takes from them."""
    is_package = FILES[name].name == "__init__.py"
    found: set[str] = set()
    for node in statements(TREES[name], inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: len(name.split(".")) + is_package - node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def reached(name: str) -> set[str]:
    """Modules of the house that a module imports when it is imported itself."""
    return imports(name, inside_functions=False) & FILES.keys() - {name}


@pytest.mark.parametrize("name", [name for name in FILES if name.split(".")[0] == "analysis"])
def test_analysis_stands_alone(name: str) -> None:
    roots = {other.split(".")[0] for other in imports(name, inside_functions=True)}
    assert not roots & {"torch", "ray", "sweeps", "trainables"}


@pytest.mark.parametrize("name", [name for name in FILES if name.split(".")[0] == "trainables"])
def test_trainables_know_neither_sweeps_nor_analysis_and_frameworks_only_in_adapters(name: str) -> None:
    roots = {other.split(".")[0] for other in imports(name, inside_functions=True)}
    assert not roots & {"sweeps", "analysis"}
    if not name.startswith("trainables.adapters"):
        assert not roots & {"ray", "lightning", "pytorch_lightning", "wandb", "mlflow", "tensorboardX"}


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: reached(name) for name in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name: str) -> None:
    assert FILES[name].name != "utils.py"
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    functions = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {n.name: n.end_lineno - n.lineno + 1 for n in functions if n.end_lineno - n.lineno + 1 > MAX_FUNCTION}
    assert not long


def imported_by(code: str) -> set[str]:
    """Top-level packages in memory after a fresh interpreter ran some code."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import analysis.schema, sweeps, trainables.ladder",
        "from sweeps import Sweep",
        "import sweeps.digits, sweeps.text_classification",
        "import sweeps.engine.stages",
    ],
)
def test_declaring_a_sweep_loads_nothing_heavy(code: str) -> None:
    assert not imported_by(code) & {"torch", "ray", "pandas"}


def test_reading_results_loads_neither_torch_nor_ray() -> None:
    names = [name for name in FILES if name.split(".")[0] == "analysis"]
    loaded = imported_by("import " + ", ".join(names))
    assert "analysis" in loaded
    assert not loaded & {"torch", "ray"}


def test_trials_load_no_framework() -> None:
    names = [n for n in FILES if n.split(".")[0] == "trainables" and not n.startswith("trainables.adapters")]
    loaded = imported_by("import " + ", ".join(names))
    assert "torch" in loaded
    assert not loaded & {"ray", "lightning", "sweeps", "analysis", "wandb", "mlflow", "tensorboardX"}


def test_the_process_of_trackers_does_without_torch() -> None:
    assert not imported_by("import trainables.adapters.track, trainables.adapters.track_wandb") & {"torch", "ray"}
    both = "from trainables.adapters import track_tensorboard; import sys; assert sys.modules.pop('torch') is None"
    assert not imported_by(both) & {"torch", "ray"}


def test_a_trial_does_not_import_the_compiler() -> None:
    code = """
from trainables.loading import find_task
from trainables.spec import Budget, TrialSpec
from trainables.trial import run_trial
import sys
for number, optimizer in enumerate(("adamw", "adam", "sgd")):
    config = {"width": 8, "optimizer": optimizer, "batch_size": 512, "max_grad_norm": 1.0}
    spec = TrialSpec("t", find_task("trainables.tasks.digits:build"), config, "fp16-mixed", 0, Budget(max_steps=1))
    assert [report.status for report in run_trial(spec)] == ["completed"]
for precision in ("fp8-tensorwise", "fp8-rowwise"):
    spec = TrialSpec("t", find_task("trainables.tasks.digits:build"), {}, precision, 0, Budget(max_steps=1))
    assert [report.status for report in run_trial(spec)] == ["unsupported"]
assert not {"torch._dynamo", "torchao"} & sys.modules.keys()
"""
    assert "torch" in imported_by(code)
