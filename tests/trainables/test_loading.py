"""Tasks found and loaded, and what is said where they are not."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainables.loading import TaskError, TaskSource, build_task, describe, find_task, load_function

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trainables import Task

def build(config):
    data = TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    return Task(nn.Linear(2, int(config.get("classes", 2))), data, data)
"""


@pytest.fixture(autouse=True)
def same_imports():
    """Found tasks make their directories importable; the next test must not see them."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def one_line(error: pytest.ExceptionInfo[TaskError]) -> str:
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("task: ")
    return str(error.value)


def test_a_module_is_found_and_built() -> None:
    source = find_task("trainables.tasks.digits:build")
    assert (source.module, source.function, source.text) == ("trainables.tasks.digits", "build", None)
    task = build_task(source, {"width": 2})
    assert len(task.train_set) + len(task.val_set) == 1797


def test_a_module_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks_of_mine.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    assert build_task(find_task("tasks_of_mine:build"), {"classes": 5}).model.out_features == 5


@pytest.mark.parametrize("place", ["{}/of/mine.py", "of/mine.py", "./of/../of/mine.py"])
def test_a_file_travels_as_text_and_runs_after_it_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = tmp_path / "of" / "mine.py"
    file.parent.mkdir()
    file.write_text(TASK)
    monkeypatch.chdir(tmp_path)
    source = pickle.loads(pickle.dumps(find_task(place.format(tmp_path) + ":build")))
    file.unlink()
    file.parent.rmdir()
    monkeypatch.chdir("/")
    assert build_task(source, {"classes": 3}).model.out_features == 3
    assert load_function(source) is load_function(source)


def test_a_file_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_task.py").write_text("CLASSES = 7")
    (tmp_path / "mine.py").write_text(TASK.replace("import torch\n", "import torch\nimport neighbour_of_task\n", 1))
    assert build_task(find_task(f"{tmp_path}/mine.py:build"), {}).model.out_features == 2


def test_files_of_one_name_and_versions_of_one_file_do_not_meet(tmp_path: Path) -> None:
    found = []
    for classes in (3, 4):
        (tmp_path / "mine.py").write_text(TASK.replace('config.get("classes", 2)', str(classes)))
        found.append(find_task(f"{tmp_path}/mine.py:build"))
    assert [build_task(source, {}).model.out_features for source in found] == [3, 4]


@pytest.mark.parametrize(
    "text",
    [
        TASK.replace("def build", "def make") + "build = make",
        TASK.replace("def build", "def make") + "build: object = make",
        TASK.replace("def build", "def make") + "import functools\nbuild = functools.partial(make)",
        TASK.replace("def build", "def make") + "class build:\n    def __new__(cls, config): return make(config)",
        "from trainables.tasks.digits import build",
        "from trainables.tasks.digits import *",
        "import trainables.tasks.digits as digits\nbuild = digits.build",
        "try:\n    from nowhere import build\nexcept ImportError:\n    from trainables.tasks.digits import build",
        "if True:\n" + "\n".join("    " + line for line in TASK.splitlines()),
        "\ufeff" + TASK,
    ],
)
def test_a_function_may_be_any_callable_that_returns_a_task(task_file: Callable[..., TaskSource], text: str) -> None:
    assert build_task(task_file(text), {}).model is not None


@pytest.mark.parametrize("name", ["", "build", "trainables.tasks.digits", ":build", "a.py:", "a.py:b c", "a.py:1"])
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(TaskError) as error:
        find_task(name)
    assert one_line(error) == (
        f"task: must name a function, got {name!r}; write module:function or path/to/file.py:function"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.py:build", "no file {}/none.py"),
        ("of/none:build", "no file {}/of/none"),
        ("no_such_module:build", "no module 'no_such_module'"),
        ("no_such.module:build", "module 'no_such.module' cannot: ModuleNotFoundError"),
        ("trainables.no_such:build", "no module 'trainables.no_such'"),
        (".relative:build", "module '.relative' cannot: ImportError"),
        ("trainables.tasks.digits:built", "built is not defined in"),
        ("good.py:built", "the file defines build"),
        ("good.py:build_of", "build_of is not defined in {}/good.py"),
        ("empty.py:build", "the file defines no function"),
        ("syntax.py:build", "syntax.py:2 is not valid Python"),
        ("null.py:build", "is not valid Python"),
        ("deep.py:build", "is not valid Python"),
        ("bytes.py:build", "cannot be read"),
        ("bad_package.inner:build", "planted in the package"),
        ("leaving_package.inner:build", "SystemExit: planted"),
    ],
)
def test_what_is_missing_or_broken_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text(TASK)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "syntax.py").write_text("def build(config):\n    return (\n")
    (tmp_path / "null.py").write_bytes(b"build = 1\0")
    (tmp_path / "deep.py").write_text("def build(config): return " + "-" * 100_000 + "1")
    (tmp_path / "bytes.py").write_bytes(b"build = '\xff\xfe'")
    for package, raises in (
        ("bad_package", "RuntimeError('planted in\\nthe package')"),
        ("leaving_package", "SystemExit('planted')"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise {raises}")
        (tmp_path / package / "inner.py").write_text(TASK)
    with pytest.raises(TaskError) as error:
        find_task(name)
    assert says.format(tmp_path) in one_line(error)
    assert repr(name) in one_line(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("build = 3", "build is 3"),
        ("build: int = 3", "build is 3"),
        ("build = ['a']", "build is ['a']"),
        ("async def build(config): ...", "build is async"),
        ("def build(): ...", "build takes no argument"),
        ("def build(config, other): ...", "build needs the arguments config, other"),
        ("def build(config, run): ...", "; mark what trains by itself with @trainable; the file defines build"),
        ("def build(*, config): ...", "build takes no argument"),
        ("def build(config, *, other): ...", "build needs the arguments config, other"),
    ],
)
def test_what_can_certainly_not_take_a_configuration_is_found_without_running_it(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "mine.py").write_text(f"raise SystemExit\n{text}\n")
    with pytest.raises(TaskError) as error:
        find_task("mine.py:build", tmp_path)
    assert says in one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        "def build(config, *rest, **more): ...",
        "def build(config, other=3, *, third=4): ...",
        "def build(*all): ...",
        "def build(config=None, /): ...",
        "@fixed\ndef build(config, other): ...",
        "build = 3\ndef build(config): ...",
        "def build(): ...\nif True:\n    def build(config): ...",
        "from other import *\ndef build(): ...",
        "build = make()",
        "build, other = make()",
        "class build: ...",
    ],
)
def test_what_might_take_a_configuration_is_left_to_loading(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    assert find_task("mine.py:build", tmp_path).function == "build"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def build(config): pass\nraise KeyError('planted\\nat import')", "KeyError: 'planted\\nat import'"),
        ("def build(config): pass\nraise RuntimeError('planted\\nat import')", "RuntimeError: planted at import"),
        ("def build(config): pass\nraise SystemExit('usage: train.py')", "SystemExit: usage: train.py"),
        ("import no_such_module_at_all\ndef build(config): pass", "No module named 'no_such_module_at_all'"),
        ("build = int('3')", "must be a function, got 3"),
        ("import numpy\nbuild = numpy.zeros((3, 3))", "must be a function, got array"),
        ("if False:\n    def build(config): pass", "must be a function, got None"),
    ],
)
def test_modules_that_cannot_be_loaded_say_so_in_one_line(
    task_file: Callable[..., TaskSource], text: str, says: str
) -> None:
    source = task_file(text)
    for _ in range(2):  # a failed import must fail again, not leave half a module behind
        with pytest.raises(TaskError) as error:
            load_function(source)
        assert says in one_line(error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('planted\\nhere')", "got ValueError: planted here (task_under_test.py:2); correct"),
        ("raise SystemExit(2)", "got SystemExit: 2"),
        ("return config['nothing']", "got KeyError: 'nothing' (task_under_test.py:2)"),
        ("return None", "must return a trainables.Task, got NoneType"),
        ("return {'model': 1}", "must return a trainables.Task, got dict"),
        ("from trainables import Task\n    return Task(1, [1], [1])", "model must be a torch.nn.Module, got int"),
    ],
)
def test_functions_that_fail_say_so_in_one_line(task_file: Callable[..., TaskSource], body: str, says: str) -> None:
    with pytest.raises(TaskError) as error:
        build_task(task_file(f"def build(config):\n    {body}"), {"table": np.zeros((2, 2))})
    assert says in one_line(error)


def test_running_out_of_memory_is_let_through(task_file: Callable[..., TaskSource]) -> None:
    with pytest.raises(RuntimeError, match="allocate") as error:
        build_task(task_file("def build(config):\n    import torch\n    return torch.empty(2**46)"), {})
    assert not isinstance(error.value, TaskError)


def test_a_task_cannot_change_the_configuration(task_file: Callable[..., TaskSource]) -> None:
    config = {"width": 1}
    with pytest.raises(TaskError):
        build_task(task_file("def build(config):\n    config['width'] = 2"), config)
    assert config == {"width": 1}


def test_errors_are_described_by_type_message_and_place() -> None:
    assert describe(ValueError("two\nlines")) == "ValueError: two lines"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("\x1b[31mred\udce4")) == "ValueError: [31mred"
    assert len(describe(ValueError("x" * 9999))) < 600
