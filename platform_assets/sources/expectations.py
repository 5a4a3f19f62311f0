"""The judgement of a candidate by Great Expectations.
 Belongs here: turning declared expectations into a suite and its failures into problems. Not here: what the
platform itself demands of every delivery (`validation.py`). Great Expectations takes seconds to import, so
that this module does it inside its functions.
 Every row is judged, none is sampled. An expectation about single rows holds for all rows exactly if it holds
for each distinct value, so the distinct values of a whole run are validated at once, and the rows that carry
an unexpected one are looked up afterwards. Any other expectation is validated partition by partition on all
rows. How values reach Great Expectations without being rounded says `ranks.py`.

A missing value is no concern of an expectation about one column. A row of which one of two values is missing meets no
comparison of the two, unless the expectation says `ignore_row_if="either_value_is_missing"`.
"""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import duckdb

from platform_assets.sources.declaration import PARTITION_COLUMN, Expectation, Source
from platform_assets.sources.ranks import Comparable, Values, comparable, holds_nan
from platform_assets.sources.validation import TABLE, Candidate, Problem, opened
from resources.engine import quoted

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.core.batch_definition import BatchDefinition

RULE = "expectations"

ABOUT_SINGLE_ROWS = frozenset(
    {
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_column_pair_values_to_be_equal",
        "expect_column_pair_values_to_be_in_set",
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_not_match_regex",
        "expect_multicolumn_sum_to_equal",
    }
)


class ExpectationError(ValueError):
    """A declared expectation that Great Expectations does not know or cannot evaluate."""


def judge(candidate: Candidate, memory: str = "1500MB", threads: int = 2) -> list[Problem]:
    """What the accepted partitions of `candidate` hold against the expectations of its source.

    Raises:
        ExpectationError: an expectation is misdeclared; the message names source and expectation.
    """
    if not candidate.source.expectations or not candidate.accepted:
        return []
    by_columns: dict[tuple[str, ...], list[Expectation]] = defaultdict(list)
    others = []
    for expectation in candidate.source.expectations:
        exact = expectation.arguments.get("mostly", 1) == 1
        if exact and expectation.type in ABOUT_SINGLE_ROWS:
            by_columns[expectation.columns].append(expectation)
        else:
            others.append(expectation)
    problems: list[Problem] = []
    with opened(candidate.database, memory, threads) as connection:
        for columns, expectations in by_columns.items():
            problems.extend(_rows_against(connection, candidate, columns, expectations))
        for partition in candidate.accepted if others else ():
            problems.extend(_partition_against(connection, candidate, partition, others))
    return problems


def _rows_against(
    connection: duckdb.DuckDBPyConnection,
    candidate: Candidate,
    columns: tuple[str, ...],
    expectations: Sequence[Expectation],
) -> Iterator[Problem]:
    accepted = {"accepted": list(candidate.accepted)}
    among = f"list_contains($accepted, {PARTITION_COLUMN})"
    names = ", ".join(f"{quoted(name)} as c{at}" for at, name in enumerate(columns))
    connection.execute(
        "create or replace temp table judged as select row_number() over () - 1 as place, * "
        f"from (select distinct {names} from {TABLE} where {among})",
        accepted,
    )
    read = connection.execute("select * exclude (place) from judged order by place").fetchnumpy()
    values = dict(zip(columns, read.values(), strict=True))
    same = " and ".join(f"d.{quoted(name)} is not distinct from u.c{at}" for at, name in enumerate(columns))
    first_values = ", ".join(f"u.c{at}" for at in range(len(columns)))
    for expectation in expectations:
        result, _ = _validated(candidate.source, expectation, values)
        if result.success:
            continue
        found = connection.execute(
            f"select {PARTITION_COLUMN}, count(*), min(row({first_values})) from {TABLE} d join judged u on {same} "
            f"where {among} and list_contains($unexpected, u.place) group by all",
            {**accepted, "unexpected": list(result.result["unexpected_index_list"])},
        )
        for partition, rows, first in found.fetchall():
            example = ", ".join(f"{name} {value}" for name, value in zip(columns, first, strict=True))
            yield _problem(expectation, partition, f"{rows:,} rows do not meet it, the first has {example}")


def _partition_against(
    connection: duckdb.DuckDBPyConnection,
    candidate: Candidate,
    partition: str,
    expectations: Sequence[Expectation],
) -> Iterator[Problem]:
    used = dict.fromkeys(name for expectation in expectations for name in expectation.columns)
    names = ", ".join(map(quoted, used)) or PARTITION_COLUMN
    query = f"select {names} from {TABLE} where {PARTITION_COLUMN} = $partition"
    values = connection.execute(query, {"partition": partition}).fetchnumpy()
    for expectation in expectations:
        if holds_nan(expectation, values):
            yield _problem(expectation, partition, "the partition does not meet it, found NaN")
            continue
        result, given = _validated(candidate.source, expectation, values)
        if not result.success:
            found = result.result.get("observed_value", result.result.get("partial_unexpected_list"))
            shown = given.shown(expectation.columns, found)
            yield _problem(expectation, partition, f"the partition does not meet it, found {shown}")


def _validated(
    source: Source, expectation: Expectation, values: Values
) -> "tuple[ExpectationValidationResult, Comparable]":
    batches = _batches()  # Imported here first, without its warnings.
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        implementation = get_expectation_impl(expectation.type)
        given = comparable(expectation, {column.stored_name: column.type for column in source.columns}, values)
        declared = implementation(**given.arguments)
    except (ExpectationNotFoundError, ValueError) as error:
        raise _misdeclared(source, expectation, str(error)) from error
    batch = batches.get_batch({"dataframe": given.frame})
    result = batch.validate(declared, result_format="COMPLETE")
    # One error of the expectation itself, or one per metric that it needs.
    raised = result.exception_info or {}
    for info in (raised, *(value for value in raised.values() if isinstance(value, dict))):
        if info.get("raised_exception"):
            raise _misdeclared(source, expectation, str(info.get("exception_message")))
    return result, given


@cache
def _batches() -> "BatchDefinition[Any]":
    # Great Expectations reads this once, when it is imported; nothing is reported home.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports itself
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return (
        context.data_sources.add_pandas("candidate")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
    )


def _problem(expectation: Expectation, partition: str, finding: str) -> Problem:
    how = "Have the upstream system correct the partition and deliver it again, or change the expectation"
    return Problem(RULE, partition, f"{_shown(expectation)}: {finding}", how, column=", ".join(expectation.columns))


def _misdeclared(source: Source, expectation: Expectation, reason: str) -> ExpectationError:
    return ExpectationError(
        f"source {source.name}: {_shown(expectation)} cannot be evaluated ({' '.join(reason.split())}); "
        "correct its declaration"
    )


def _shown(expectation: Expectation) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in expectation.arguments.items())
    return f"{expectation.type}({arguments})"
