"""Sources whose columns change: what was stored stays, what comes is read by the new declaration."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import dagster as dg
import pytest

from platform_assets.automation import CUT_OFF
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.deep import read_again
from platform_assets.partition_checker.states import PairState
from platform_assets.sources.assets import DELIVERY, build_raw, build_sources, build_upstream
from platform_assets.sources.declaration import Column, Source
from resources.environment import Environment
from resources.ledger import Ledger
from resources.warehouse import TableName, Warehouse
from tests.platform_assets.sources.conftest import SALES
from tests.platform_assets.sources.test_assets import arrive, failure, recorded, statuses
from tests.small_graph import checker_of

OLD, NEW, LATER = "2017-03-01", "2017-03-02", "2017-03-03"
CHANNEL = Column("channel", "VARCHAR", "Where it was sold.", nullable=True)
RAW = TableName.of_key(SALES.raw_key)


def with_channel(source: Source) -> Source:
    return replace(source, columns=(*source.columns, CHANNEL))


def in_channel(rows: list[dict[str, Any]], channel: str | None = "web") -> list[dict[str, Any]]:
    return [{**row, "channel": channel} for row in rows]


class Platform:
    """A source's raw table, and a table that is computed from its days, over one lake."""

    def __init__(self, warehouse: Warehouse, instance: dg.DagsterInstance) -> None:
        self.warehouse, self.instance = warehouse, instance

    def totals(self, source: Source) -> dg.AssetsDefinition:
        """A downstream table, which reads `channel` once the source declares it."""
        has_channel = CHANNEL in source.columns
        channels = "count(channel)" if has_channel else "0"

        @dg.asset(
            key=["commerce", "totals"],
            deps=[source.raw_key],
            partitions_def=source.partitions,
            backfill_policy=dg.BackfillPolicy.single_run(),
            code_version="1",
        )
        def totals(context: dg.AssetExecutionContext, checker: PartitionChecker) -> Any:
            with checker.building(context) as build:
                build.replace_table(
                    context.asset_key,
                    lambda keys: (
                        lambda lake: lake.sql(
                            f"select partition_key, sum(amount_usd) as usd, {channels} as channels from {RAW.sql} "
                            f"where partition_key in ({', '.join(map(repr, keys))}) group by all"
                        )
                    ),
                )
                yield from build.outputs()

        return totals

    def checker(self, source: Source) -> PartitionChecker:
        assets = [build_upstream(source), build_raw(source), self.totals(source)]
        return checker_of(Environment.current(), {"platform_assets": assets}, warehouse=self.warehouse)

    def build(
        self, source: Source, *days: str, key: dg.AssetKey | None = None, tags: Mapping[str, str] = MappingProxyType({})
    ) -> dg.ExecuteInProcessResult:
        arrive(self.instance, source)
        resources = {"warehouse": self.warehouse, "checker": self.checker(source)}
        definitions = dg.Definitions.merge(
            build_sources([source]), dg.Definitions([self.totals(source)], resources=resources)
        )
        bounds = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]}
        return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[key or source.raw_key],
            tags={**bounds, **tags},
            raise_on_error=False,
        )

    def states(self, source: Source) -> dict[tuple[str, str], str]:
        """The state of every pair that has a receipt, its rows read again."""
        arrive(self.instance, source)
        inspector = self.checker(source).inspector(self.instance)
        names = ["commerce/raw_sales", "commerce/totals"]
        found: list[PairState] = []
        for name, judged in inspector.judged(dict.fromkeys(names)).items():
            with_receipt = zip(judged.pairs(), judged.facts.recorded.tolist(), strict=True)
            pairs = [pair for pair, is_recorded in with_receipt if is_recorded]
            found += read_again(inspector, inspector.graph.named[name], pairs, lambda read: None)
        return {(pair.asset.partition("/")[2], pair.partition): str(pair.state) for pair in found}

    def stored(self, day: str) -> list[tuple[Any, ...]]:
        with self.warehouse.reader() as lake:
            rows = self.warehouse.relation(lake, RAW, [day])
            return rows.order("basket_id").project("basket_id, channel").fetchall()


@pytest.fixture
def platform(environment: Environment, warehouse: Warehouse) -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(warehouse, instance)


TOTALS = dg.AssetKey(["commerce", "totals"])


def test_a_nullable_column_that_is_added_leaves_what_was_stored_verified_and_new_days_have_it(
    platform: Platform, deliver: Any, sales_rows: Any, sales: Source
) -> None:
    deliver(sales, sales_rows(sales, OLD), OLD)
    assert platform.build(sales, OLD).success
    assert platform.build(sales, OLD, key=TOTALS).success
    now = with_channel(sales)
    old = {("raw_sales", OLD): "verified", ("totals", OLD): "verified"}
    assert platform.states(now) == old
    deliver(now, in_channel(sales_rows(now, NEW)), NEW, types={"channel": "VARCHAR"})
    assert platform.build(now, NEW).success
    assert platform.stored(OLD) == [(100, None), (101, None), (102, None)]
    assert platform.stored(NEW) == [(100, "web"), (101, "web"), (102, "web")]
    assert platform.states(now) == {**old, ("raw_sales", NEW): "verified"}
    # The old day is built again: its file lacks the column, nothing has changed for its readers.
    assert platform.build(now, OLD).success
    assert platform.stored(OLD) == [(100, None), (101, None), (102, None)]
    assert platform.states(now) == {**old, ("raw_sales", NEW): "verified"}


def test_an_old_day_delivered_again_with_the_added_column_makes_its_readers_follow(
    platform: Platform, deliver: Any, sales_rows: Any
) -> None:
    deliver(SALES, sales_rows(SALES, OLD), OLD)
    assert platform.build(SALES, OLD).success
    now = with_channel(SALES)
    platform.warehouse.add_columns({RAW: now.stored_columns})
    assert platform.build(now, OLD, key=TOTALS).success, "it has read NULL"
    deliver(now, in_channel(sales_rows(now, OLD), None), OLD)
    assert platform.states(now) == {("raw_sales", OLD): "outdated", ("totals", OLD): "verified"}
    assert platform.build(now, OLD).success
    assert platform.states(now) == {("raw_sales", OLD): "verified", ("totals", OLD): "verified"}
    deliver(now, in_channel(sales_rows(now, OLD)), OLD)
    assert platform.build(now, OLD).success
    assert platform.states(now) == {("raw_sales", OLD): "verified", ("totals", OLD): "outdated"}


def test_the_first_delivery_with_an_added_column_makes_readers_of_that_day_follow(
    platform: Platform, deliver: Any, sales_rows: Any
) -> None:
    deliver(SALES, sales_rows(SALES, OLD), OLD)
    assert platform.build(SALES, OLD).success
    assert platform.build(SALES, OLD, key=TOTALS).success
    now = with_channel(SALES)
    deliver(now, in_channel(sales_rows(now, OLD)), OLD)
    assert platform.build(now, OLD).success
    assert platform.states(now) == {("raw_sales", OLD): "verified", ("totals", OLD): "outdated"}


def test_a_column_that_is_not_declared_is_refused_or_left_out_and_said(
    platform: Platform, deliver: Any, sales_rows: Any, sales: Source
) -> None:
    deliver(sales, in_channel(sales_rows(sales, OLD)), OLD, types={"channel": "VARCHAR"})
    assert "column 'channel' is not declared" in failure(platform.build(sales, OLD))
    lenient = replace(sales, undeclared_columns="ignore")
    assert platform.build(lenient, OLD).success
    said = recorded(platform.instance, lenient)[OLD]["undeclared columns ignored"]
    assert said.value == "channel"
    assert statuses(platform.instance, lenient, DELIVERY)[OLD] == (True, None)
    assert platform.states(lenient)[("raw_sales", OLD)] == "verified"
    # Once it is declared, what was left out is read.
    now = with_channel(lenient)
    assert platform.states(now)[("raw_sales", OLD)] == "outdated"
    assert platform.build(now, OLD, tags={CUT_OFF: "true"}).success
    assert platform.stored(OLD) == [(100, "web"), (101, "web"), (102, "web")]


def version_of(source: Source) -> dg.AssetSpec:
    return build_raw(source).get_asset_spec(source.raw_key)


def test_what_changes_stored_values_changes_the_version_and_nothing_else_does() -> None:
    now = version_of(SALES).code_version
    (*others, note) = SALES.columns
    assert version_of(with_channel(SALES)).code_version == now
    assert version_of(replace(SALES, columns=SALES.columns[::-1])).code_version == now
    assert version_of(replace(SALES, columns=tuple(others))).code_version == now
    required = (*others, replace(note, nullable=False))
    assert version_of(replace(SALES, columns=required)).code_version != now
    assert version_of(replace(SALES, event_time=None)).code_version != now
    ignoring = replace(SALES, undeclared_columns="ignore")
    assert version_of(with_channel(ignoring)).code_version != version_of(ignoring).code_version


def test_a_pair_recorded_when_all_columns_counted_is_verified_also_after_one_is_added(
    platform: Platform, deliver: Any, sales_rows: Any, environment: Environment
) -> None:
    deliver(SALES, sales_rows(SALES, OLD), OLD)
    assert platform.build(SALES, OLD).success
    ledger = Ledger.of(environment)
    (receipt,) = ledger.current("commerce/raw_sales").values()
    # The version that this source had: blake2b of its columns in their order, and its event time.
    ledger.record([replace(receipt, code_version="5a5b1f1f0d5c")])
    assert platform.states(SALES)[("raw_sales", OLD)] == "outdated"
    ledger.record([replace(receipt, code_version=VERSION_OF_BEFORE)])
    for source in (SALES, with_channel(SALES)):
        assert platform.states(source)[("raw_sales", OLD)] == "verified"


VERSION_OF_BEFORE = "18be10ec32c9"


@pytest.mark.parametrize("change", ["removed", "retyped"])
def test_a_column_that_is_removed_or_retyped_is_refused_by_name_and_what_is_stored_stays(
    platform: Platform, deliver: Any, sales_rows: Any, change: str
) -> None:
    deliver(SALES, sales_rows(SALES, OLD), OLD)
    assert platform.build(SALES, OLD).success
    (*others, note) = SALES.columns
    columns = tuple(others) if change == "removed" else (*others, replace(note, type="BIGINT"))
    rows = [{name: value for name, value in row.items() if name != "note"} for row in sales_rows(SALES, NEW)]
    deliver(replace(SALES, columns=columns), rows, NEW)
    message = failure(platform.build(replace(SALES, columns=columns), NEW))
    assert "column 'note' is VARCHAR in the lake" in message
    assert "Keep the column" in message
    assert platform.states(SALES)[("raw_sales", OLD)] == "verified"


def test_the_lake_gains_declared_columns_before_anything_is_delivered_with_them(
    platform: Platform, deliver: Any, sales_rows: Any
) -> None:
    deliver(SALES, sales_rows(SALES, OLD), OLD)
    assert platform.build(SALES, OLD).success
    declared = {RAW: with_channel(SALES).stored_columns, TableName("commerce", "raw_unknown"): {"a": "BIGINT"}}
    before = platform.warehouse.snapshot()
    platform.warehouse.add_columns(declared)
    assert platform.stored(OLD) == [(100, None), (101, None), (102, None)]
    added = platform.warehouse.snapshot()
    platform.warehouse.add_columns(declared)
    assert (before < added, platform.warehouse.snapshot()) == (True, added)
    assert platform.states(SALES)[("raw_sales", OLD)] == "verified"
