"""Where a loop stands in a trial's budget, and what times its steps."""

from typing import Protocol

from trainables.spec import Budget


class Epochs(Protocol):
    """Data that comes in epochs."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in each."""


class Clock(Protocol):
    """Ticks as steps end."""

    def tick(self) -> None:
        """A step has ended."""

    def restart(self) -> None:
        """A step begins that none of the time before it belongs to."""


class Budgeted:
    """What a trial asks of a loop that makes its own steps, ``step`` of them so far, over ``data``."""

    step: int
    data: Epochs

    @property
    def epoch(self) -> float:
        """Passes over the training set so far; a fraction in the middle of one."""
        return self.step / self.data.steps_per_epoch

    @property
    def can_be_saved(self) -> bool:
        """Whether its state is all that it goes on from."""
        return True

    def is_done(self, budget: Budget) -> bool:
        """Whether a budget is spent."""
        return self.step >= budget.num_steps(self.data.steps_per_epoch)

    def steps_to_report(self, budget: Budget, since: int) -> int:
        """Steps that are left up to the next report, the last one having been made at step ``since``."""
        per_epoch = self.data.steps_per_epoch
        return min(since + budget.interval(per_epoch), budget.num_steps(per_epoch)) - self.step
