"""``torch.compile`` of a model's training steps: settings that are right for autocast, and no silent fallback.

The compiler takes as long to import as PyTorch, so it is imported where something is compiled and nowhere else.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

RECOMPILES = 8
"""How often a model may be compiled anew in a run, as its inputs change; PyTorch's own limit, beyond which it would go
on uncompiled."""


class CompileError(RuntimeError):
    """A model that cannot be compiled, or not often enough."""


@contextmanager
def compiler(wanted: bool, num_threads: int) -> Iterator[None]:
    """The compiler's settings for a trial; nothing compiled is found by the next one, or left over from the last.

    Args:
        wanted: whether anything is to be compiled; if not, nothing is done.
        num_threads: that may compile; of more than one, processes of their own remain beside the trial.
    """
    if not wanted:
        yield
        return
    import torch._dynamo as dynamo
    import torch._functorch.config as autograd
    import torch._inductor.config as inductor

    settings: dict[Any, dict[str, Any]] = {
        # What a task compiles by itself may go on uncompiled, as anywhere; see :meth:`CompiledModel.__init__`.
        dynamo.config: {"recompile_limit": RECOMPILES, "fail_on_recompile_limit_hit": False, "suppress_errors": False},
        # Backward runs outside of autocast, as PyTorch's guide to AMP has it; else it would be compiled as if inside.
        autograd: {"backward_pass_autocast": "off"},
        inductor: {"compile_threads": num_threads},
    }
    dynamo.reset()
    with ExitStack() as stack:
        for config, values in settings.items():
            known = {name: value for name, value in values.items() if hasattr(config, name)}  # not in every version
            stack.enter_context(config.patch(known))
        try:
            yield
        finally:
            dynamo.reset()


class CompiledModel:
    """A model to be called in training in place of the eager one, whose weights it shares.

    Args:
        model: it stays as it is, with the names of its parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        import torch._dynamo as dynamo

        self.num_graphs = 0
        self._limit_hit = dynamo.exc.FailOnRecompileLimitHit
        self._call: Callable[..., Any] = torch.compile(model, backend=self._compile)
        # What is compiled counts by the code that it came from, which arms share; each after the first adds its share.
        dynamo.config.recompile_limit += RECOMPILES if dynamo.config.fail_on_recompile_limit_hit else 0
        dynamo.config.fail_on_recompile_limit_hit = True

    def _compile(self, graph: Any, inputs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx

        self.num_graphs += 1
        return compile_fx(graph, inputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs.

        Raises:
            CompileError: the inputs changed once too often.
        """
        try:
            return self._call(*args, **kwargs)
        except self._limit_hit:
            raise CompileError(
                f"torch.compile met inputs for which it had to compile more than {RECOMPILES} times; give them fewer "
                "shapes, as padding does, or leave compile off"
            ) from None
