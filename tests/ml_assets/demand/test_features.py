"""A feature row knows the eight weeks before its week and nothing later."""

from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ml_assets.demand.features import FEATURES, NAMES, product_week_features
from tests.ml_assets.demand.grocery import grocery, weeks_from


def features_of(connection: duckdb.DuckDBPyConnection, sales: pa.Table, weeks: list[str]) -> pa.Table:
    return product_week_features(connection.from_arrow(sales), weeks).to_arrow_table()


def one_product(units: dict[str, int], **columns: float) -> pa.Table:
    rows = len(units)
    base = {"households": 1, "regular_price_usd": 4.0, "price_usd": 3.0, "discount_depth": 0.25}
    shops = {"display_stores": 5, "mailer_stores": 10, "promoted_stores": 20}
    return pa.table(
        {
            "week": [date.fromisoformat(week) for week in units],
            "product_id": [7] * rows,
            "units": list(units.values()),
            **{name: [value] * rows for name, value in {**base, **shops, **columns}.items()},
        }
    )


def test_values_match_a_hand_computed_row(connection: duckdb.DuckDBPyConnection) -> None:
    sales = one_product({"2017-01-02": 8, "2017-02-13": 4, "2017-02-20": 2})
    (row,) = features_of(connection, sales, ["2017-02-27"]).to_pylist()
    assert row == {
        "feature_week": date(2017, 2, 27),
        "product_id": 7,
        "units_lag_1": 2,
        "units_lag_2": 4,
        "units_lag_3": 0,
        "units_lag_4": 0,
        "units_lag_8": 8,
        "units_mean_4": 1.5,
        "units_mean_8": 1.75,
        "households_mean_4": 0.5,
        "households_mean_8": 0.375,
        "units_max_8": 8,
        "weeks_sold_8": 3,
        "weeks_since_sale": 1,
        "last_price_usd": 3.0,
        "last_regular_price_usd": 4.0,
        "last_discount_depth": 0.25,
        "display_share_lag_1": 0.25,
        "mailer_share_lag_1": 0.5,
        "week_of_month": 4,
        "partition_key": "2017-02-27",
    }


def test_a_product_without_sales_in_eight_weeks_is_no_candidate(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    sales = one_product({"2017-01-02": 3})
    assert features_of(connection, sales, ["2017-02-27"]).num_rows == 1
    assert features_of(connection, sales, ["2017-03-06"]).num_rows == 0


def test_promotion_shares_are_zero_when_no_store_promotes(connection: duckdb.DuckDBPyConnection) -> None:
    sales = one_product({"2017-02-20": 1}, display_stores=0, mailer_stores=0, promoted_stores=0)
    (row,) = features_of(connection, sales, ["2017-02-27"]).to_pylist()
    assert (row["display_share_lag_1"], row["mailer_share_lag_1"]) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_sold_in_the_week_or_later_changes_its_features(
    connection: duckdb.DuckDBPyConnection, seed: int
) -> None:
    week = "2017-03-27"
    sales, other = grocery(20, 60, seed), grocery(20, 60, seed + 100, level=9.0)
    past = pc.less(sales["partition_key"], week)
    later = pc.greater_equal(other["partition_key"], week)
    rewritten = pa.concat_tables([sales.filter(past), other.filter(later)])
    assert features_of(connection, sales, [week]).equals(features_of(connection, rewritten, [week]))
    assert features_of(connection, sales, [week]).equals(features_of(connection, sales.filter(past), [week]))


def test_a_range_of_weeks_gives_the_same_rows_as_week_by_week(connection: duckdb.DuckDBPyConnection) -> None:
    sales, weeks = grocery(20, 60), weeks_from("2017-02-27", 6)
    alone = pa.concat_tables([features_of(connection, sales, [week]) for week in weeks])
    assert features_of(connection, sales, weeks).equals(alone)


def test_every_feature_is_declared_once_with_its_stored_type(connection: duckdb.DuckDBPyConnection) -> None:
    rows = product_week_features(connection.from_arrow(grocery(20, 5)), ["2017-03-27"])
    stored = dict(zip(rows.columns, map(str, rows.types), strict=True))
    assert len(set(NAMES)) == len(NAMES)
    assert {feature.name: feature.type for feature in FEATURES} == {name: stored[name] for name in NAMES}
