"""Plain values to columns of the schema's types; what is unknown is a missing value."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.schema import TIMESTAMP, refuse


def column(values: list[Any], dtype: str, name: str) -> Any:
    """A column as pandas takes it.

    Args:
        values: of all rows.
        dtype: as the schema has it.
        name: of the column, for the message.

    Raises:
        ResultsError: not every value is of that type.
    """
    try:
        if dtype == "float64":
            numbers = np.array(values, dtype=np.float64)  # None becomes NaN
            if numbers.ndim != 1:
                raise TypeError("lists of numbers")
            return numbers
        if dtype == TIMESTAMP:
            texts = pd.Series(values, dtype="object")
            return pd.to_datetime(texts, utc=True, format="ISO8601", cache=False).dt.as_unit("us")
        if dtype == "object":
            return pd.Series(values, dtype="object")
        return pd.array(values, dtype=dtype)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError) as error:
        detail = str(error).splitlines()[0]
        refuse(f"column {name}", f"must hold values of {dtype} alone", detail, "correct the journal")


def config_column(values: list[Any]) -> Any:
    """A hyperparameter's column in the narrowest type that holds its values; objects where they are of several."""
    dtype = _CONFIG_DTYPES.get(frozenset(type(value) for value in values if value is not None), "object")
    try:
        return pd.array(values, dtype=dtype) if dtype != "object" else pd.Series(values, dtype="object")  # type: ignore[call-overload]
    except OverflowError:  # an integer of more than 64 bits
        return pd.Series(values, dtype="object")


_CONFIG_DTYPES = {
    frozenset({bool}): "boolean",
    frozenset({int}): "Int64",
    frozenset({float}): "float64",
    frozenset({int, float}): "float64",
    frozenset({str}): "string",
}
