"""Rows of a training set are what was known then and what then happened; bad rows are refused by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.features.source import LakeFeatures
from ml_assets.sdk.declarations import Query, TrainingSet
from ml_assets.sdk.folds import fit, span_of
from ml_assets.sdk.training_sets import MissingPartition, TrainingDataError, labelled, leaks, questions
from ml_assets.sdk.windows import Reads
from resources.warehouse import Commit, TableName, Warehouse
from tests.ml_assets.sdk.bakery import FACT_FEATURES, FACTS, LOAVES, SALES_CALENDAR, WEEKS, facts, loaves
from tests.ml_assets.sdk.lightgbm_project import BREAD, SALES
from tests.ml_assets.sdk.sklearn_project import BUSY, BUSY_WEEKS

WEEK = WEEKS[1]
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture
def lake(warehouse: Warehouse) -> Warehouse:
    """Two weeks of the bakery chain."""
    for key, rows in ((FACTS, facts(20, weeks=2)), (LOAVES, loaves(20, weeks=2))):
        store(warehouse, key, rows)
    return warehouse


def store(warehouse: Warehouse, key: dg.AssetKey, rows: pa.Table) -> None:
    warehouse.replace_partitions(TableName.of_key(key), WEEKS[:2], rows, Commit("test", "delivery"))


def rows_of(warehouse: Warehouse, declared: TrainingSet = SALES, week: str = WEEK) -> pa.Table:
    with warehouse.reader() as connection:
        return labelled(connection, declared, week)


def with_labels(change: Callable[[np.ndarray], np.ndarray], label: str = "sold") -> pa.Table:
    rows = loaves(20, weeks=2)
    at = rows.column_names.index(label)
    return rows.set_column(at, label, pa.array(change(rows[label].to_numpy().copy())))


def test_rows_hold_the_features_of_their_week_and_what_was_then_sold(lake: Warehouse) -> None:
    rows = rows_of(lake).to_pylist()
    known = {row["shop_id"]: row for row in facts(20, weeks=2).to_pylist() if row["partition_key"] == WEEK}
    sold = {row["shop_id"]: row["sold"] for row in loaves(20, weeks=2).to_pylist() if row["partition_key"] == WEEK}
    assert len(rows) == 20
    for row in rows:
        assert row["footfall"] == known[row["shop_id"]]["footfall"]
        assert row["shop_known_at"] == known[row["shop_id"]]["known_at"]
        assert row["sold"] == sold[row["shop_id"]]
        assert row["partition_key"] == WEEK


def test_questions_have_no_labels_and_need_none(lake: Warehouse) -> None:
    with lake.reader() as connection:
        asked = questions(connection, replace(SALES, labels=Query("select nothing from nowhere", {})), WEEK)
        assert asked.columns == ["shop_id", "week", "footfall", "sold_before", "shop_known_at"]


def test_a_model_may_be_asked_about_a_time_past_the_calendar_of_its_training_set(lake: Warehouse) -> None:
    ended = dg.WeeklyPartitionsDefinition(
        start_date=WEEKS[0], end_date=WEEKS[1], timezone=SALES_CALENDAR.timezone, day_offset=SALES_CALENDAR.day_offset
    )
    short = replace(SALES, calendar=ended)
    assert not ended.has_partition_key(WEEK)
    with lake.reader() as connection:
        asked = questions(connection, short, WEEK, SALES_CALENDAR).to_arrow_table()
        assert asked.equals(questions(connection, SALES, WEEK).to_arrow_table())
    assert asked.num_rows == 20


def test_entity_rows_without_a_label_are_left_out_or_get_the_declared_one(lake: Warehouse) -> None:
    sales = loaves(20, weeks=2)
    store(lake, LOAVES, sales.filter(pc.greater(sales["shop_id"], 4)))
    assert rows_of(lake).num_rows == 15
    filled = rows_of(lake, replace(SALES, unlabelled=0.0))
    assert filled.num_rows == 20
    assert filled["sold"].to_pylist()[:5] == [0.0] * 5


def test_a_query_sees_no_other_partition_than_it_declares(lake: Warehouse) -> None:
    seen = Query("select shop_id, max(week) as week from loaves group by shop_id", SALES.labels.reads)
    with lake.reader() as connection:
        declared = replace(SALES, entity_rows=seen)
        assert {str(row[1]) for row in questions(connection, declared, WEEKS[0]).fetchall()} == {WEEKS[0]}


def test_a_missing_partition_is_named(lake: Warehouse) -> None:
    with pytest.raises(MissingPartition, match=rf"commerce\.shop_facts has no rows for {WEEKS[5]}; materialize"):
        rows_of(lake, week=WEEKS[5])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_infinite_labels_are_refused_with_their_first_row(lake: Warehouse, value: float) -> None:
    store(lake, LOAVES, with_labels(lambda labels: np.where(np.arange(len(labels)) % 20 == 3, value, labels)))
    with pytest.raises(TrainingDataError, match=rf"{WEEK}: 1 of 20 labels 'sold' are NaN.*'shop_id': 3"):
        rows_of(lake)


def test_a_binary_label_that_is_neither_0_nor_1_is_refused(lake: Warehouse) -> None:
    store(lake, LOAVES, with_labels(lambda labels: labels * 2, "busy"))
    with pytest.raises(TrainingDataError, match=r"must be 0 or 1; found 0\.0, 2\.0"):
        rows_of(lake, BUSY_WEEKS)


def test_entity_rows_from_the_future_are_refused(lake: Warehouse) -> None:
    later = Query("select shop_id, known_at::date + 7 as week from facts", SALES.entity_rows.reads)
    with pytest.raises(TrainingDataError, match=r"20 of 20 entity rows are from the future.*restrict 'week'"):
        rows_of(lake, replace(SALES, entity_rows=later))


def test_entity_rows_that_are_older_than_their_partition_are_refused(lake: Warehouse) -> None:
    earlier = Query("select shop_id, known_at::date - 7 as week from facts", SALES.entity_rows.reads)
    with pytest.raises(TrainingDataError, match="20 of 20 entity rows are older than their partition"):
        rows_of(lake, replace(SALES, entity_rows=earlier))


def test_repeated_entity_rows_and_repeated_labels_are_refused(lake: Warehouse) -> None:
    twice = Query(f"{SALES.entity_rows.sql} union all {SALES.entity_rows.sql}", SALES.entity_rows.reads)
    with pytest.raises(TrainingDataError, match="20 of 40 entity rows repeat keys and time"):
        rows_of(lake, replace(SALES, entity_rows=twice))
    double = Query(f"{SALES.labels.sql} union all {SALES.labels.sql}", SALES.labels.reads)
    with pytest.raises(TrainingDataError, match="several rows for the same shop_id, week; aggregate"):
        rows_of(lake, replace(SALES, labels=double))


def test_a_label_that_hides_in_a_feature_is_refused_by_the_name_of_the_feature(lake: Warehouse) -> None:
    disguised = Query(
        "select shop_id, known_at::date as week, 3 * footfall + 2 as sold from facts", SALES.entity_rows.reads
    )
    with pytest.raises(TrainingDataError, match="feature 'footfall' is the label 'sold' in disguise.*take it out"):
        rows_of(lake, replace(SALES, labels=disguised))


def test_few_labels_that_are_like_a_feature_by_chance_are_not_refused(lake: Warehouse) -> None:
    few = Query(f"{SALES.entity_rows.sql} where shop_id < 5", SALES.entity_rows.reads)
    disguised = Query("select shop_id, known_at::date as week, footfall as sold from facts", SALES.entity_rows.reads)
    assert rows_of(lake, replace(SALES, entity_rows=few, labels=disguised)).num_rows == 5


def test_a_column_that_a_query_does_not_give_is_named(lake: Warehouse) -> None:
    with pytest.raises(TrainingDataError, match="labels of 'bread': the query gives no loaves; it gives shop_id"):
        rows_of(lake, replace(SALES, label="loaves"))


def test_values_that_were_known_after_their_row_are_counted_by_feature(lake: Warehouse) -> None:
    @dataclass(frozen=True)
    class OfTheWeekItself(LakeFeatures):
        """Takes what a later row says, whatever the time."""

        def join(
            self, lake: duckdb.DuckDBPyConnection, entity_rows: duckdb.DuckDBPyRelation
        ) -> duckdb.DuckDBPyRelation:
            later = "select shop_id, known_at + interval 3 days as shop_known_at, footfall, sold_before "
            table = lake.sql(f"{later} from {TableName.of_key(FACTS).sql} where partition_key = '{WEEK}'")
            return entity_rows.join(table, "shop_id")

    declared = replace(SALES, features=OfTheWeekItself(FACT_FEATURES.views, FACT_FEATURES.deps))
    assert leaks(rows_of(lake, declared), declared, BREAD.feature_names) == {"footfall": 20, "sold_before": 20}
    assert leaks(rows_of(lake), SALES, BREAD.feature_names) == {}


def test_a_fold_without_rows_or_with_one_class_is_refused_by_its_partitions(lake: Warehouse, tmp_path) -> None:
    fold = "2017-03-06"
    span = span_of(BUSY, fold)
    rows = pa.concat_tables(
        [
            rows_of(lake, BUSY_WEEKS).drop(["partition_key"]).append_column("partition_key", pa.array([week] * 20))
            for week in span.learned
        ]
    )
    calm = rows.set_column(rows.column_names.index("busy"), "busy", pa.array(np.zeros(rows.num_rows)))
    with pytest.raises(TrainingDataError, match=rf"only the class 0 in {span.training[0]}\.\.{span.training[-1]}"):
        fit(BUSY, fold, span, calm, tmp_path)
    with pytest.raises(TrainingDataError, match="has no rows in"):
        fit(BUSY, fold, span, calm.slice(0, 0), tmp_path)


def test_a_fold_before_which_too_little_is_known_is_refused() -> None:
    early = replace(BREAD, calendar=SALES_CALENDAR)
    with pytest.raises(TrainingDataError, match="has 2 partitions before it.*start later"):
        span_of(early, WEEKS[2])


def test_reading_relative_partitions_is_declared() -> None:
    assert Reads(FACTS, SALES_CALENDAR, -2, -1).keys(SALES_CALENDAR, WEEKS[3]) == WEEKS[1:3]
    assert Reads(FACTS, None).keys(SALES_CALENDAR, WEEKS[3]) is None


def test_a_partition_of_which_no_labels_can_be_there_is_refused_and_not_filled(lake: Warehouse) -> None:
    growing = dg.WeeklyPartitionsDefinition(WEEKS[0], timezone=SALES_CALENDAR.timezone, day_offset=1)
    declared = replace(
        SALES,
        calendar=growing,
        labels=Query(
            SALES.labels.sql, {name: replace(read, calendar=growing) for name, read in SALES.labels.reads.items()}
        ),
        unlabelled=0.0,
    )
    started = growing.time_window_for_partition_key(WEEK).start
    words = f"{WEEK} has no labels: .*loaves has partitions until {WEEK}"
    with dg.partition_loading_context(started + timedelta(days=3)), pytest.raises(MissingPartition, match=words):
        rows_of(lake, declared)
    with dg.partition_loading_context(started + timedelta(days=7)):
        assert rows_of(lake, declared).num_rows == 20


def test_a_closed_day_of_the_labels_has_none(lake: Warehouse) -> None:
    closed = dg.DailyPartitionsDefinition("2017-12-01", end_date="2018-01-01", exclusions=["0 0 25 12 *"])
    every = dg.DailyPartitionsDefinition("2017-12-01", end_date="2018-01-01")
    read = Reads(LOAVES, closed)
    assert read.lacks(every, "2017-12-24") == ""
    assert read.lacks(every, "2017-12-31") == ""
    assert read.lacks(every, "2017-12-25") == "has no partition of that time"
