"""What one trial does: pure PyTorch, runnable under a debugger or on a bare GPU host."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.exported import load_exported
    from trainables.task import Task

__all__ = ["Task", "load_exported"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for, and torch with it, when it is first asked for."""
    if name == "Task":
        from trainables.task import Task

        return Task
    if name == "load_exported":
        from trainables.exported import load_exported

        return load_exported
    raise AttributeError(f"module 'trainables' has no attribute {name!r}")
