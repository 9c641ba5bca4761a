"""Values of the hyperparameters that the training loop itself reads, refused before anything starts."""

from collections.abc import Collection, Mapping

from sweeps.search.checks import refuse
from sweeps.search.domains import Choice, Domain, LogUniform, QUniform, RandInt, Scalar, Uniform
from trainables.hyperparameters import Hyperparameters, broken_rule


def telling_values(value: Domain | Scalar) -> Collection[Scalar]:
    """Values of a domain or a constant that break a rule of the training loop if any of its values does.

    Those rules bound a value, or ask of two whole numbers that one divides the other; neighbours tell of that.
    """
    if isinstance(value, Choice):
        return value.values
    if isinstance(value, RandInt):
        return [*range(value.low, min(value.low + 2, value.high)), value.high - 1]
    if isinstance(value, Uniform | LogUniform | QUniform):
        return [value.low, value.high]
    return [value.draw(0.0)] if isinstance(value, Domain) else [value]


def check_values(values: Mapping[str, Collection[Scalar]], where: str) -> None:
    """Refuses values that the training loop cannot use.

    Args:
        values: hyperparameters by name, each with all the values to check.
        where: how errors name a hyperparameter, with ``{}`` for its name.

    Raises:
        SweepError: the loop reads a hyperparameter of that name, and could not train with such a value.
    """
    for name, candidates in values.items():
        for value in candidates:
            condition = broken_rule(name, value)
            if condition is not None:
                remedy = f"the training loop reads {name}: give it only such values"
                refuse(where.format(name), f"must be {condition}", value, remedy)
    sizes = values.get("batch_size", [Hyperparameters.batch_size])
    for steps in values.get("accumulate_steps", [Hyperparameters.accumulate_steps]):
        for size in sizes:
            if size % steps:  # type: ignore[operator]
                remedy = "choose batch sizes that every accumulate_steps divides"
                refuse(where.format("accumulate_steps"), f"must divide the batch_size of {size}", steps, remedy)
