import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from platform_assets.sources.declaration import Expectation, Source, expect
from platform_assets.sources.expectations import ABOUT_SINGLE_ROWS, ExpectationError, judge
from platform_assets.sources.validation import Candidate, Problem, inspect
from tests.platform_assets.sources.conftest import SALES

DAY, NEXT_DAY = "2017-03-01", "2017-03-02"

Judge = Callable[..., list[Problem]]


@pytest.fixture
def judged(deliver: Any, sales_rows: Any, landing_root: Path, tmp_path: Path) -> Judge:
    """Deliver two days of sales, changed as given for the second, and judge both against the expectations."""

    def run(*expectations: Expectation, changes: dict[str, Any] | None = None) -> list[Problem]:
        source: Source = replace(SALES, expectations=expectations)
        deliver(source, sales_rows(source, DAY, 5), DAY)
        rows = sales_rows(source, NEXT_DAY, 5)
        rows[3].update(changes or {})
        deliver(source, rows, NEXT_DAY)
        candidate: Candidate = inspect(source, landing_root, [DAY, NEXT_DAY], tmp_path / "candidate.duckdb")
        assert candidate.problems == ()
        return judge(candidate)

    return run


def test_what_meets_every_expectation_has_no_problem(judged: Judge) -> None:
    assert (
        judged(
            expect("column_values_to_be_between", column="amount_usd", min_value=0),
            expect("column_values_to_be_in_set", column="product_id", value_set=[7]),
            expect("table_row_count_to_be_between", min_value=5, max_value=5),
        )
        == []
    )


def test_rows_that_do_not_meet_it_are_counted_in_their_own_partition(judged: Judge) -> None:
    (problem,) = judged(
        expect("column_values_to_be_between", column="amount_usd", min_value=0), changes={"amount_usd": -2.5}
    )
    assert (problem.rule, problem.partition, problem.column) == ("expectations", NEXT_DAY, "amount_usd")
    assert problem.message == (
        "expect_column_values_to_be_between(column='amount_usd', min_value=0): "
        "1 rows do not meet it, the first has amount_usd -2.5"
    )
    assert "change the expectation" in problem.how_to_fix


def test_an_expectation_about_two_columns_is_judged_row_by_row(judged: Judge) -> None:
    (problem,) = judged(
        expect("column_pair_values_a_to_be_greater_than_b", column_A="basket_id", column_B="product_id"),
        changes={"basket_id": 3},
    )
    assert problem.partition == NEXT_DAY
    assert "the first has basket_id 3, product_id 7" in problem.message


def test_missing_values_are_no_concern_of_a_value_set(judged: Judge) -> None:
    notes = [f'said "hello", {row}' for row in range(5)]
    assert judged(expect("column_values_to_be_in_set", column="note", value_set=notes)) == []


def test_an_expectation_about_the_whole_partition_is_judged_on_all_its_rows(judged: Judge) -> None:
    (problem,) = judged(
        expect("column_max_to_be_between", column="amount_usd", max_value=10), changes={"amount_usd": 99.0}
    )
    assert problem.partition == NEXT_DAY
    assert "found 99" in problem.message


def test_a_tolerated_share_counts_rows_not_distinct_values(judged: Judge) -> None:
    # One row of five: a fifth of the rows but half of the distinct values.
    tolerant = expect("column_values_to_be_in_set", column="product_id", value_set=[7], mostly=0.8)
    assert judged(tolerant, changes={"product_id": 8}) == []


@pytest.mark.parametrize(
    "expectation",
    [
        expect("column_values_to_be_betwen", column="amount_usd", min_value=0),
        expect("column_values_to_be_between", column="amount_usd", minimum=0),
        expect("column_values_to_be_between", column="note", min_value=0),
    ],
    ids=["unknown expectation", "unknown argument", "wrong type of column"],
)
def test_an_expectation_that_cannot_be_evaluated_is_named(judged: Judge, expectation: Expectation) -> None:
    with pytest.raises(ExpectationError, match=rf"source commerce\.sales: {expectation.type}\(.*correct its decl"):
        judged(expectation)


@pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")
def test_every_expectation_judged_by_distinct_values_exists() -> None:
    from great_expectations.expectations.registry import get_expectation_impl

    assert {name for name in ABOUT_SINGLE_ROWS if get_expectation_impl(name)} == ABOUT_SINGLE_ROWS


def test_defining_the_sources_does_not_import_great_expectations() -> None:
    code = (
        "import sys; from platform_assets.sources.assets import build_sources; "
        "from platform_assets.sources.catalogue import SOURCES; build_sources(SOURCES); "
        "sys.exit(bool({'great_expectations', 'pandas'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
