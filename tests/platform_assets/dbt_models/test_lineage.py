"""Column-level lineage from compiled SQL."""

from pathlib import Path

import pytest

from platform_assets.dbt_models import lineage
from platform_assets.dbt_models.lineage import cached_lineage, model_lineage
from resources.warehouse import TableName

RAW = TableName("shop", "raw_sales")
STAGED = TableName("shop", "stg_sales")
MART = TableName("shop", "product_days")


def node(name: str, sql: str, *upstream: str) -> dict:
    return {
        "resource_type": "model",
        "schema": "shop",
        "alias": name,
        "compiled_code": sql,
        "depends_on": {"nodes": [f"model.{name}" for name in upstream]},
    }


def test_columns_are_followed_through_stars_windows_joins_and_aggregates() -> None:
    manifest = {
        "nodes": {
            "model.product_days": node(
                "product_days",
                """
                with sales as (
                  select * from (select * from "lake"."shop"."stg_sales" where partition_key >= '2017-01-01')
                ), ranked as (select *, row_number() over (partition by product_id order by price) as place from sales)
                select product_id, sum(price * units) as sales_usd, count(*) as lines, max(place) as places
                from ranked group by product_id
                """,
                "stg_sales",
            ),
            "model.stg_sales": node(
                "stg_sales",
                "select id as product_id, value / nullif(qty, 0) as price, qty as units, partition_key "
                'from "lake"."shop"."raw_sales"',
            ),
        }
    }
    columns = {"id": "BIGINT", "value": "DOUBLE", "qty": "BIGINT", "partition_key": "VARCHAR"}
    found = model_lineage(manifest, {RAW: columns})
    assert found[STAGED].columns["price"] == ((RAW, "qty"), (RAW, "value"))
    assert found[MART].columns == {
        "product_id": ((STAGED, "product_id"),),
        "sales_usd": ((STAGED, "price"), (STAGED, "units")),
        "lines": (),
        "places": ((STAGED, "price"), (STAGED, "product_id")),
    }


def test_lineage_is_worked_out_once_until_a_model_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(lineage, "model_lineage", lambda *given: calls.append(given) or model_lineage(*given))
    cache, columns = tmp_path / "lineage.json", {RAW: {"id": "BIGINT", "qty": "BIGINT"}}
    before = {"nodes": {"model.stg_sales": node("stg_sales", 'select id from "lake"."shop"."raw_sales"')}}
    after = {"nodes": {"model.stg_sales": node("stg_sales", 'select qty as id from "lake"."shop"."raw_sales"')}}
    for manifest, expected, times in [(before, "id", 1), (before, "id", 1), (after, "qty", 2)]:
        assert cached_lineage(cache, manifest, columns)[STAGED].columns == {"id": ((RAW, expected),)}
        assert len(calls) == times
    cache.write_text("cut o")
    assert cached_lineage(cache, after, columns)[STAGED].columns["id"] == ((RAW, "qty"),)
