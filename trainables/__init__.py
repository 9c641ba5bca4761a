"""What one trial does: pure PyTorch, runnable under a debugger or on a bare GPU host."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.task import Task

__all__ = ["Task"]


def __getattr__(name: str) -> Any:
    """Loads ``Task`` when it is first asked for, since it imports torch."""
    if name != "Task":
        raise AttributeError(f"module 'trainables' has no attribute {name!r}")
    from trainables.task import Task

    return Task
