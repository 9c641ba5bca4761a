"""What one trial does: pure PyTorch, runnable under a debugger or on a bare GPU host."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.exported import load_exported
    from trainables.function import Run, trainable
    from trainables.task import Task

__all__ = ["Run", "Task", "load_exported", "trainable"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for, and torch with it, when it is first asked for."""
    if name == "Task":
        from trainables.task import Task

        return Task
    if name == "load_exported":
        from trainables.exported import load_exported

        return load_exported
    if name in ("Run", "trainable"):
        import trainables.function

        return getattr(trainables.function, name)
    raise AttributeError(f"module 'trainables' has no attribute {name!r}")
