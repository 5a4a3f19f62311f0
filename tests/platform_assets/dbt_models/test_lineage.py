"""Column-level lineage from compiled SQL."""

from platform_assets.dbt_models.lineage import model_lineage
from platform_assets.dbt_models.queries import model_codes
from tests.platform_assets.dbt_models.shop import RAW, SOURCES, manifest, stored, table, view

STAGED = view(
    "stg_sales",
    "select id as product_id, value / nullif(qty, 0) as price, qty as units, partition_key "
    'from "lake"."shop"."raw_sales"',
)


def test_columns_are_followed_through_stars_windows_joins_and_aggregates() -> None:
    mart = stored(
        "product_days",
        """
        with sales as (
          select * from (select * from "lake"."shop"."stg_sales" where partition_key >= '2017-01-01')
        ), ranked as (select *, row_number() over (partition by product_id order by price) as place from sales)
        select product_id, sum(price * units) as sales_usd, count(*) as lines, max(place) as places
        from ranked group by product_id
        """,
        "stg_sales",
    )
    found = model_lineage(model_codes(manifest(mart, STAGED), SOURCES))
    staged = table("stg_sales")
    assert found[staged].columns["price"] == ((RAW, "qty"), (RAW, "value"))
    assert found[table("product_days")].columns == {
        "product_id": ((staged, "product_id"),),
        "sales_usd": ((staged, "price"), (staged, "units")),
        "lines": (),
        "places": ((staged, "price"), (staged, "product_id")),
    }


def test_the_partition_key_is_a_column_of_what_is_stored_by_partition_only() -> None:
    models = [
        stored("by_day", "select id from lake.shop.raw_sales"),
        stored("whole", "select id from lake.shop.raw_sales", meta={"partitions": "none"}),
        view("seen", "select id from lake.shop.raw_sales"),
    ]
    readers = [stored(f"all_of_{at}", f"select * from lake.shop.{at}", at) for at in ("by_day", "whole", "seen")]
    found = model_lineage(model_codes(manifest(*models, *readers), SOURCES))
    assert {at.name for at, known in found.items() if "partition_key" in known.columns} == {"all_of_by_day"}


def test_a_column_named_like_a_keyword_is_followed() -> None:
    model = stored("odd", 'select id as "group", qty as "two words" from lake.shop.raw_sales')
    reader = stored("reader", "select * from lake.shop.odd", "odd")
    found = model_lineage(model_codes(manifest(model, reader), SOURCES))[table("reader")].columns
    assert found["group"] == ((table("odd"), "group"),)
    assert found["two words"] == ((table("odd"), "two words"),)
