"""Values as Great Expectations compares them exactly: by their ranks.

Belongs here: turning columns, and the arguments of an expectation, into what a data frame can hold without loss. Not
here: which expectations there are, and what follows from them (`expectations.py`).

Great Expectations takes bounds for doubles, so that 2^53 and 2^53 + 1 are one, refuses a bound that is text, and cannot
tell a missing number from NaN. Most expectations only ask which of two values is the larger, or whether they are equal:
these are given the place of each value, and of each bound, among all of them.

NaN is a value. It is not missing, it is equal to itself where values are counted, and it meets no bound, no set and no
comparison.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.sources.declaration import Expectation

if TYPE_CHECKING:
    import pandas as pd

Values = Mapping[str, "np.ma.MaskedArray[Any, Any] | NDArray[Any]"]
"""Columns by name, as DuckDB hands them out: masked where a value is missing."""

_ONE_ORDER = frozenset(
    {
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_column_pair_values_to_be_equal",
        "expect_multicolumn_values_to_be_unique",
        "expect_select_column_values_to_be_unique_within_record",
    }
)
"""Those that compare values of several columns with each other."""

_OF_THE_EXTREMES = frozenset({"expect_column_max_to_be_between", "expect_column_min_to_be_between"})
_RANKED = (
    _ONE_ORDER
    | _OF_THE_EXTREMES
    | {
        "expect_column_pair_values_to_be_in_set",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_be_null",
        "expect_column_values_to_be_unique",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_not_be_null",
        "expect_compound_columns_to_be_unique",
    }
)
_SUM = "expect_multicolumn_sum_to_equal"
_NUMBERS = {"BIGINT", "DOUBLE"}
_TIMES = {"DATE", "TIMESTAMP"}
_EXACT = 2**53
"""Below it, every whole number is a double."""


@dataclass(frozen=True)
class Comparable:
    """A data frame and arguments for one expectation, and by column the values that ranks stand for."""

    frame: "pd.DataFrame"
    arguments: Mapping[str, Any]
    orders: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def shown(self, columns: Sequence[str], found: Any) -> Any:
        """What Great Expectations found, with values instead of their ranks."""
        if not self.orders or found is None:
            return found
        if isinstance(found, list):
            return [self.shown(columns, one) for one in found]
        if isinstance(found, tuple):
            return tuple(self.shown([name], one) for name, one in zip(columns, found, strict=True))
        if isinstance(found, dict):
            return {name: self.shown([name], one) for name, one in found.items()}
        if math.isnan(found):
            return None
        return math.nan if math.isinf(found) else self.orders[columns[0]][int(found)]


def comparable(expectation: Expectation, types: Mapping[str, str], values: Values) -> Comparable:
    """The columns of an expectation and its arguments, such that no comparison is rounded.

    Args:
        expectation: as declared.
        types: of all columns, as declared.
        values: at least the columns of the expectation.

    Raises:
        ValueError: a bound or a member of a set is no value of its column's type, or columns cannot be compared.
    """
    given = {name: _member(expectation, types, name) for name in expectation.columns}
    if expectation.type == _SUM:
        return _summed(expectation, values)
    if expectation.type in _RANKED and "row_condition" not in expectation.arguments:
        return _by_rank(expectation, types, values, given)
    return _as_they_are(expectation, types, values)


def holds_nan(expectation: Expectation, values: Values) -> bool:
    """Whether the expectation is about all values together, and one is NaN: then it is not met."""
    if expectation.type == _SUM or expectation.type in _RANKED - _OF_THE_EXTREMES:
        return False
    return any(_is_nan(values[name]).any() for name in expectation.columns)


def _by_rank(
    expectation: Expectation, types: Mapping[str, str], values: Values, given: Mapping[str, list[Any]]
) -> Comparable:
    import pandas as pd

    names = expectation.columns
    groups = [names] if expectation.type in _ONE_ORDER else [(name,) for name in names]
    orders: dict[str, Any] = {}
    for group in groups:
        order = _order([_present(values[name], types[name]) for name in group], [v for n in group for v in given[n]])
        orders |= dict.fromkeys(group, order)
    arguments = dict(expectation.arguments)
    ranks = {name: _ranks(orders[name], values[name], types[name], _beyond(expectation, name)) for name in names}
    if "value_pairs_set" in arguments:
        a, b = names
        pairs = arguments["value_pairs_set"]
        arguments["value_pairs_set"] = [
            (_rank(orders[a], x, types[a]), _rank(orders[b], y, types[b])) for x, y in pairs
        ]
    for name in ("min_value", "max_value"):
        if arguments.get(name) is not None:
            arguments[name] = _rank(orders[names[0]], arguments[name], types[names[0]])
    if arguments.get("value_set") is not None:
        members = [member for member in arguments["value_set"] if member is not None]
        arguments["value_set"] = [_rank(orders[names[0]], member, types[names[0]]) for member in members]
    return Comparable(pd.DataFrame(ranks), arguments, orders)


def _summed(expectation: Expectation, values: Values) -> Comparable:
    """What each row's sum is above the expected one, instead of its first value: Python adds without rounding."""
    import pandas as pd

    total, (first, *others) = expectation.arguments["sum_total"], expectation.columns
    columns = [_plain(values[name]) for name in expectation.columns]
    frame = {name: np.where(np.ma.getmaskarray(values[name]), np.nan, 0.0) for name in others}
    above = []
    for row in zip(*columns, strict=True):
        missing = any(value is None for value in row)
        difference = 0 if missing else sum(row) - total
        above.append(math.nan if row[0] is None else float(difference == difference and difference != 0))
        if not missing and difference != difference:
            above[-1] = math.inf
    return Comparable(
        pd.DataFrame({first: np.array(above, np.float64), **frame}), {**expectation.arguments, "sum_total": 0}
    )


def _as_they_are(expectation: Expectation, types: Mapping[str, str], values: Values) -> Comparable:
    import pandas as pd

    frame: dict[str, Any] = {}
    for name in expectation.columns or values:
        column = values[name]
        whole = types.get(name) == "BIGINT" and np.ma.getmaskarray(column).any()
        if whole and abs(np.ma.filled(column, 0)).max(initial=0) < _EXACT:
            frame[name] = np.ma.filled(column.astype(np.float64), np.nan)
        elif types.get(name) in _TIMES:
            frame[name] = np.ma.filled(column.astype("datetime64[us]"), np.datetime64("NaT"))
        elif np.ma.getmaskarray(column).any():
            frame[name] = np.array(_plain(column), object)
        else:
            frame[name] = np.ma.getdata(column)
    arguments = dict(expectation.arguments)
    kind = types.get(expectation.columns[0]) if expectation.columns else None
    for name in ("min_value", "max_value"):
        bound = arguments.get(name)
        if isinstance(bound, int) and float(bound) != bound:
            raise ValueError(f"{name} {bound} is beyond what this expectation compares exactly")
        if bound is not None and kind in _TIMES and not isinstance(bound, int | float):
            arguments[name] = _converted(name, bound, kind)
    if kind in _TIMES and arguments.get("value_set") is not None:
        arguments["value_set"] = [pd.Timestamp(_converted("value_set", one, kind)) for one in arguments["value_set"]]
    return Comparable(pd.DataFrame(frame), arguments)


def _member(expectation: Expectation, types: Mapping[str, str], name: str) -> list[Any]:
    """The values of the arguments that are compared with a column, in its type."""
    arguments, kind = expectation.arguments, types[name]
    if expectation.type not in _RANKED:
        return []
    found = [(one, arguments[one]) for one in ("min_value", "max_value") if arguments.get(one) is not None]
    found += [("value_set", one) for one in arguments.get("value_set") or () if one is not None]
    at = expectation.columns.index(name)
    found += [("value_pairs_set", pair[at]) for pair in arguments.get("value_pairs_set") or () if pair[at] is not None]
    return [_converted(argument, value, kind) for argument, value in found]


def _converted(argument: str, value: Any, kind: str) -> Any:
    """A declared value in the type of its column; text is a date or a time where the column holds such."""
    if kind in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return value
    if (kind == "VARCHAR" and isinstance(value, str)) or (kind == "BOOLEAN" and isinstance(value, bool)):
        return value
    if kind in _TIMES and isinstance(value, date | str):
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"{argument} {value!r} is no date or time, as 2017-03-01 or 2017-03-01T12:00") from error
        if not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        if moment.tzinfo is None:
            return moment
        raise ValueError(f"{argument} {value!r} has a time zone; the column's times have none")
    raise ValueError(f"{argument} {value!r} is no {kind}")


def _order(columns: Sequence[NDArray[Any]], given: Sequence[Any]) -> NDArray[Any]:
    """The distinct values of some columns and arguments in ascending order."""
    kinds = {column.dtype for column in columns}
    bounds = np.array(given, object)
    if len(kinds) == 1 and columns[0].dtype != object:
        exact = bounds.astype(columns[0].dtype) if _fit(given, columns[0].dtype) else None
        if exact is not None:
            return np.unique(np.concatenate([*columns, exact]))
    everything = [value for column in columns for value in column.tolist()]
    try:
        ordered = sorted({*everything, *given})
    except TypeError as error:
        raise ValueError(f"the columns hold values that cannot be compared ({error})") from error
    return _objects(ordered)


def _fit(given: Sequence[Any], dtype: np.dtype[Any]) -> bool:
    """Whether arguments are values of a column's type, without being rounded."""
    if dtype.kind == "i":
        return all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in given)
    if dtype.kind == "f":
        return all(abs(value) < _EXACT or isinstance(value, float) for value in given)
    return True


def _present(column: Any, kind: str) -> NDArray[Any]:
    """The values of a column that are neither missing nor NaN."""
    found: NDArray[Any] = np.ma.getdata(column)[~np.ma.getmaskarray(column) & ~_is_nan(column)]
    return found.astype("datetime64[us]") if kind in _TIMES else found


def _is_nan(column: Any) -> NDArray[np.bool_]:
    data = np.ma.getdata(column)
    if data.dtype.kind != "f":
        return np.zeros(len(data), np.bool_)
    return np.isnan(data) & ~np.ma.getmaskarray(column)


def _ranks(order: NDArray[Any], column: Any, kind: str, beyond: float) -> NDArray[np.float64]:
    """The place of each value of a column; NaN where it is missing, infinite where it is NaN."""
    ranks = np.full(len(column), np.nan)
    is_nan = _is_nan(column)
    present = _present(column, kind)
    ranks[is_nan] = beyond
    ranks[~np.ma.getmaskarray(column) & ~is_nan] = _places(order, present)
    return ranks


def _places(order: NDArray[Any], present: NDArray[Any]) -> Any:
    if order.dtype == present.dtype and order.dtype != object:
        return np.searchsorted(order, present)
    place = {value: number for number, value in enumerate(order.tolist())}
    return [place[value] for value in present.tolist()]


def _rank(order: NDArray[Any], value: Any, kind: str) -> float | None:
    """The place of an argument."""
    if value is None:
        return None
    converted = _converted("value", value, kind)
    exact = converted if order.dtype == object else np.array(converted, object).astype(order.dtype)
    return float(_places(order, _objects([exact]) if order.dtype == object else np.array([exact], order.dtype))[0])


def _beyond(expectation: Expectation, name: str) -> float:
    """The place of NaN: one at which it meets nothing."""
    above = expectation.arguments.get("column_B") == name or expectation.arguments.get("min_value") is None
    is_ordered = expectation.type in (*_ONE_ORDER, "expect_column_values_to_be_between")
    return math.inf if above and is_ordered and expectation.arguments.get("column_A") != name else -math.inf


def _plain(column: Any) -> list[Any]:
    """A column as Python's values, None where one is missing."""
    missing = np.ma.getmaskarray(column)
    pairs: Iterable[tuple[Any, bool]] = zip(np.ma.getdata(column).tolist(), missing.tolist(), strict=True)
    return [None if is_missing else value for value, is_missing in pairs]


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    found = np.empty(len(values), object)
    found[:] = values
    return found
