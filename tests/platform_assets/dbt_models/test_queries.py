"""Code versions of dbt models: the same for the same rows, another one for anything that changes them."""

import json
import subprocess
import sys

import pytest

from platform_assets.dbt_models.queries import UnreadableQuery, model_codes
from resources.environment import REPOSITORY
from tests.platform_assets.dbt_models.shop import SOURCES, manifest, stored, table, view

Edit = list[tuple[str, str]]
"""What is replaced in `MART`, and by what."""

STAGED = """
with source as (select * from "lake"."shop"."raw_sales"),
renamed as (select id as product_id, value as sales, qty as units, store as store_id, partition_key from source)
select * from renamed
"""
MART = """
with sales as (
  select * from "lake"."shop"."stg_sales" where units > 0
), summed as (
  select product_id, sum(sales) as sales, count(distinct store_id) as stores from sales
  where product_id <> 7 group by product_id
)
select product_id, sales, stores, sales / nullif(stores, 0) as sales_a_store from summed
"""


def versions(*nodes: dict) -> dict[str, str]:
    return {at.name: code.version for at, code in model_codes(manifest(*nodes), SOURCES).items()}


def version_of(sql: str, **config: object) -> str:
    more = stored("stg_more_sales", 'select * from "lake"."shop"."stg_sales"', "stg_sales")
    mart = stored("product_days", sql, "stg_sales", "stg_more_sales", **config)
    return versions(view("stg_sales", STAGED), more, mart)["product_days"]


def edited(edit: Edit) -> str:
    sql = MART
    for old, new in edit:
        assert old in sql
        sql = sql.replace(old, new)
    return sql


OUTPUTS = "select product_id, sales, stores, sales / nullif(stores, 0) as sales_a_store"

SAME: dict[str, Edit] = {
    "comments": [("group by", "-- by product\n/* only */ group by")],
    "layout": [("\n", " ")],
    "keyword case": [("select", "SELECT"), ("group by", "GROUP BY"), ("sum(", "Sum(")],
    "identifier case": [("product_id", "Product_ID")],
    "quotes": [('"lake"."shop"."stg_sales"', "lake.shop.stg_sales"), ("stores,", '"stores",')],
    "parentheses": [("units > 0", "((units) > 0)")],
    "another name of a CTE": [("summed", "totals")],
    "the CTE as a subquery": [("from sales", 'from (select * from "lake"."shop"."stg_sales" where units > 0) as x')],
    "a table alias": [('"stg_sales" where units', '"stg_sales" as s where s.units')],
    "a star written out": [("select * from", "select product_id, sales, store_id, units from")],
    "a column that nothing reads": [("select * from", "select *, units * 2 as doubled from")],
    "a CTE that nothing reads": [("), summed as", "), unused as (select 1 as one), summed as")],
    "a final select star": [(OUTPUTS, f", final as ({OUTPUTS}"), ("summed\n", "summed) select * from final")],
    "an import CTE": [
        ('"lake"."shop"."stg_sales"', "stg"),
        ("with sales as (", "with stg as (select * from lake.shop.stg_sales), sales as ("),
    ],
    "another order of the columns": [
        (OUTPUTS, "select sales / nullif(stores, 0) as sales_a_store, stores, sales, product_id")
    ],
    "group by its place": [("group by product_id", "group by 1")],
    "not equal in another way": [("product_id <> 7", "product_id != 7")],
}


@pytest.mark.parametrize("edit", SAME)
def test_an_edit_that_changes_no_row_keeps_the_version(edit: str) -> None:
    assert version_of(edited(SAME[edit])) == version_of(MART)


DIFFERENT: dict[str, Edit] = {
    "a filter": [("units > 0", "units > 1")],
    "no filter": [("where units > 0", "")],
    "an aggregate": [("sum(sales)", "max(sales)")],
    "a literal": [("units > 0", "units > 0 and 'a' = 'b'")],
    "a literal's case": [("units > 0", "units > 0 and 'a' = 'B'")],
    "a column more": [("select product_id, sales,", "select product_id, 1 as one, sales,")],
    "a column less": [("stores, sales /", "sales /")],
    "another name of a column": [("as sales_a_store", "as sales_per_store")],
    "distinct": [("select product_id, sum", "select distinct product_id, sum")],
    "the grouping": [("group by product_id", "group by product_id, store_id")],
    "a limit": [("summed\n", "summed limit 10")],
    "another table": [("stg_sales", "stg_more_sales")],
    "swapped columns": [("sales, stores, sales /", "stores as sales, sales as stores, sales /")],
    "the order of a division": [("sales / nullif(stores, 0)", "stores / nullif(sales, 0)")],
    "rows instead of a row": [("from summed", "from summed, (select 1 from lake.shop.stg_sales) as x")],
    "a row for the rows": [("from summed", "from summed, (select max(1) from lake.shop.stg_sales) as x")],
}


@pytest.mark.parametrize("edit", DIFFERENT)
def test_an_edit_that_changes_rows_changes_the_version(edit: str) -> None:
    assert version_of(edited(DIFFERENT[edit])) != version_of(MART)


def test_every_edit_has_a_version_of_its_own() -> None:
    found = [version_of(edited(edit)) for edit in DIFFERENT.values()]
    assert len(set(found)) == len(found)


def test_precedence_is_kept_without_parentheses() -> None:
    assert version_of("select (units + 1) * 2 as n from lake.shop.stg_sales") != version_of(
        "select units + 1 * 2 as n from lake.shop.stg_sales"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("join r on l.units = r.units and l.store_id = 1", "join r on l.units = r.units and r.store_id = 1"),
        ("left join r on l.units = r.units", "right join r on l.units = r.units"),
        ("where exists (select 1 from r where r.units = l.units)", "where exists (select 1 from r where r.units = 1)"),
    ],
)
def test_which_source_a_column_is_of_counts(one: str, other: str) -> None:
    sides = "with l as (select * from lake.shop.stg_sales), r as (select * from lake.shop.stg_more_sales)"
    direct = one.replace(" r ", " lake.shop.stg_more_sales as r ").replace("l.", "zz.")
    assert version_of(f"{sides} select l.units from l {one}") != version_of(f"{sides} select l.units from l {other}")
    assert version_of(f"{sides} select l.units from l {one}") == version_of(
        f"select zz.units from lake.shop.stg_sales as zz {direct}"
    )


def test_the_columns_of_a_union_count_by_their_place() -> None:
    def union(right: str) -> str:
        return version_of(
            "with a as (select units, store_id from lake.shop.stg_sales), "
            f"b as (select {right} from lake.shop.stg_sales) select * from a union all select * from b"
        )

    assert union("units, store_id") != union("store_id, units")


@pytest.mark.parametrize(
    ("config", "same"),
    [
        ({"meta": {"partition_column": "week"}}, False),
        ({"meta": {"partitions": "weekly"}}, False),
        ({"meta": {"lookback": {"stg_sales": 3}}}, False),
        ({"materialized": "lake_view"}, False),
        ({"meta": {"dagster": {"anything": 1}}}, True),
        ({"raw_code": "select * from {{ window_of(ref('stg_sales')) }} where {{ is_in_window() }}"}, False),
        ({"raw_code": "{# window_of(ref('stg_sales')) #} {{ ref('stg_sales') }}"}, True),
    ],
)
def test_only_config_that_changes_rows_changes_the_version(config: dict, same: bool) -> None:
    assert (version_of(MART, **config) == version_of(MART)) is same


def test_windows_are_the_same_however_they_are_written() -> None:
    assert version_of(MART, raw_code="{{ window_of(ref('a')) }}") == version_of(
        MART, raw_code='{{window_of( ref("a") )}}'
    )
    assert version_of(MART, raw_code="{{ window_of(ref('a')) }}") != version_of(
        MART, raw_code="{{ window_of(ref('b')) }}"
    )


def project(staged: str) -> dict[str, str]:
    """Readers of some columns, of all, of rows only, of a view of the view; and readers of those."""
    return versions(
        view("stg_sales", staged),
        view("stg_recent", "select product_id, units from lake.shop.stg_sales where units < 9", "stg_sales"),
        stored("priced", "select product_id, sales as price from lake.shop.stg_sales", "stg_sales"),
        stored("counted", "select count(*) as n from lake.shop.stg_sales", "stg_sales"),
        stored("copied", "with s as (select * from lake.shop.stg_sales) select * from s", "stg_sales"),
        stored("recent", "select product_id from lake.shop.stg_recent", "stg_recent"),
        stored("after", "select price from lake.shop.priced", "priced"),
    )


@pytest.mark.parametrize(
    ("staged", "changed"),
    [
        (STAGED.replace("select id as", "select /* the */ id as"), set()),
        (STAGED.replace("partition_key from", "qty * 2 as doubled, partition_key from"), {"stg_sales", "copied"}),
        (STAGED.replace("value as sales", "value / 100 as sales"), {"stg_sales", "copied", "priced"}),
        (
            STAGED.replace("qty as units", "qty + 1 as units"),
            {"stg_sales", "copied", "recent", "stg_recent"},
        ),
        (
            STAGED.replace("from source)", "from source where store > 0)"),
            {"stg_sales", "copied", "priced", "counted", "recent", "stg_recent"},
        ),
        (STAGED.replace("store as store_id, ", ""), {"stg_sales", "copied"}),
        (
            "select id as product_id, value as sales, qty as units, store as store_id, partition_key "
            "from lake.shop.raw_sales",
            set(),
        ),
    ],
)
def test_a_view_changes_exactly_the_versions_of_what_uses_the_change(staged: str, changed: set[str]) -> None:
    before, after = project(STAGED), project(staged)
    assert {name for name in before if before[name] != after[name]} == changed


READERS = {
    "named": ("select units from lake.shop.t", True),
    "through a star": ("with x as (select * from lake.shop.t) select units from x", True),
    "rows": ("select count(*) as n from lake.shop.t", True),
    "exists": ("select 1 as one where exists (select * from lake.shop.t)", True),
    "star": ("select * from lake.shop.t", False),
    "star of a join": ("select t.* from lake.shop.t as t join lake.shop.raw_sales as r on r.qty = t.units", False),
    "star except": ("select * exclude (units) from lake.shop.t", False),
    "short from": ("from lake.shop.t", False),
    "distinct": ("select units from (select distinct * from lake.shop.t) as x", False),
    "columns": ("select columns('u.*') from lake.shop.t", False),
    "columns below": ("select columns('u.*') from (select * from lake.shop.t) as x", False),
    "whole row": ("select to_json(t) as row from lake.shop.t as t", False),
    "natural join": (
        "select t.units from lake.shop.t as t natural join "
        "(select qty as units, store as added from lake.shop.raw_sales) as r",
        False,
    ),
    "grouping by all": ("select s from (select *, sum(units) as s from lake.shop.t group by all) as x", False),
    "pivot": ("select * from (pivot lake.shop.t on units using count(*))", False),
    "alias": ("select units as u, u + 1 as v from lake.shop.t where u > 2 order by v", True),
    "window": ("select units from lake.shop.t qualify row_number() over (partition by day order by units) = 1", True),
    "struct": ("select list_transform([units], x -> x + 1) as l from lake.shop.t", True),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_column_more_in_a_table_changes_only_who_reads_it(reader: str) -> None:
    sql, same = READERS[reader]

    def version(columns: str) -> str:
        return versions(stored("t", f"select {columns} from lake.shop.raw_sales"), stored("reader", sql, "t"))["reader"]

    before, after = version("id as day, qty as units"), version("id as day, qty as units, store as added")
    assert (before == after) is same


def test_a_changed_table_does_not_change_what_reads_it() -> None:
    def version(expression: str) -> str:
        return versions(
            stored("t", f"select {expression} as units from lake.shop.raw_sales"),
            stored("reader", "select * from lake.shop.t", "t"),
        )["reader"]

    assert version("qty") == version("qty * 2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select units, unnest([1, 2]) as u from x", "select units, unnest([1, 2, 3]) as u from x"),
        ("select distinct units, store_id as u from x", "select distinct units, product_id as u from x"),
        ("select units, mad(store_id) as u from x group by all", "select units, store_id as u from x group by all"),
        ("select units, 1 as u from x order by store_id limit 3", "select units, 1 as u from x order by sales limit 3"),
    ],
)
def test_a_column_that_decides_about_rows_counts_though_nothing_reads_it(one: str, other: str) -> None:
    def version(inner: str) -> str:
        return version_of(f"with x as (select * from lake.shop.stg_sales), y as ({inner}) select units from y")

    assert version(one) != version(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("where units in (select units from x)", "where units in (select store_id from x)"),
        ("where units = (select max(units) from x)", "where units = (select min(units) from x)"),
        ("where (units, store_id) in (from x)", "where (store_id, units) in (from x)"),
        ("where (units, 1) in (select units, 1 from x)", "where (units, 1) in (select 1, units from x)"),
        ("where units > any (select units from x)", "where units > any (select store_id from x)"),
        (", lateral (select store_id as l) as y", ", lateral (select units as l) as y"),
    ],
)
def test_what_a_subquery_selects_to_compare_with_counts(one: str, other: str) -> None:
    first = "with x as (select units, store_id from lake.shop.stg_sales) select units from x "
    assert version_of(first + one) != version_of(first + other)


def test_recursion_has_a_version_and_changes_it() -> None:
    def version(step: str, name: str = "n") -> str:
        return version_of(
            f"with recursive {name} as (select 1 as i union all select i + {step} from {name} where i < 5) "
            f"select i from {name}"
        )

    assert version("1") == version("1", "numbers") != version("2")


def test_the_version_is_the_same_in_every_process() -> None:
    code = (
        "from tests.platform_assets.dbt_models.test_queries import MART, version_of;"
        "import json; print(json.dumps(version_of(MART)))"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == version_of(MART)


@pytest.mark.parametrize("sql", ["select (", "drop table x"])
def test_sql_that_cannot_be_analysed_is_refused_with_the_name_of_the_model(sql: str) -> None:
    with pytest.raises(UnreadableQuery, match=r"shop\.broken.*models/broken\.sql"):
        model_codes(manifest(stored("broken", sql)), SOURCES)


def test_the_columns_of_a_query_can_be_compared_one_by_one() -> None:
    before = model_codes(manifest(stored("t", "select id, qty + store as n from lake.shop.raw_sales")), SOURCES)
    after = model_codes(
        manifest(stored("t", "select id, qty - store as n, 1 as one from lake.shop.raw_sales")), SOURCES
    )
    one, other = before[table("t")].own, after[table("t")].own
    assert one.digest_of(["id"]) == other.digest_of(["id"])
    assert one.digest_of(["n"]) != other.digest_of(["n"])
    assert one.digest_of([]) == other.digest_of([])
    assert one.digest_of(one.columns) == one.digest
