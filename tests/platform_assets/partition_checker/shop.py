"""A small shop on a real lake: sales by day, what is made of them in one step by day, and in others by week.

    sales -> evens -> sums -> weeks -> summary

`evens` are the even numbers of the day's sales; `sums` add up those of the day and of the day before; `weeks` add up
the days; `summary` has no partitions. `evens` and `sums` are one step; `weeks` and `summary` are another location's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.graph import Graph
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import PairState, State
from platform_assets.partitions import same_time
from resources.environment import Environment
from resources.lake_catalog import LakeCatalog
from resources.ledger import Ledger, Receipt
from resources.warehouse import Commit, TableName, Warehouse
from tests.small_graph import checker_of

DAILY = dg.DailyPartitionsDefinition("2017-01-02", end_date="2017-01-16")
WEEKLY = dg.WeeklyPartitionsDefinition("2017-01-02", end_date="2017-01-16", day_offset=1)
DAYS = [f"2017-01-{day:02}" for day in range(2, 16)]
WEEKS = ["2017-01-02", "2017-01-09"]

CALENDARS = {"sales": DAILY, "evens": DAILY, "sums": DAILY, "weeks": WEEKLY, "summary": None}
NEEDS: Mapping[str, Mapping[str, dg.PartitionMapping | None]] = {
    "sales": {},
    "evens": {"sales": same_time()},
    "sums": {"evens": same_time(lookback=1)},
    "weeks": {"sums": same_time()},
    "summary": {"weeks": None},
}
SQL = {
    "evens": "select partition_key, n from lake.shop.sales where n % 2 = 0 and partition_key in {keys}",
    "sums": "select k.partition_key, sum(e.n)::bigint as n from (select unnest({list}) as partition_key) k "
    "join lake.shop.evens e on e.partition_key::date between k.partition_key::date - 1 and k.partition_key::date "
    "where e.partition_key in {reach} group by all",
    "weeks": "select strftime(date_trunc('week', partition_key::date), '%Y-%m-%d') as partition_key, "
    "sum(n)::bigint as n from lake.shop.sums group by all having partition_key in {keys}",
    "summary": "select sum(n)::bigint as n from lake.shop.weeks",
}
STEPS = {"sales": ["sales"], "daily": ["evens", "sums"], "weekly": ["weeks"], "whole": ["summary"]}
OTHER_LOCATION = ("weekly", "whole")


def key_of(name: str) -> dg.AssetKey:
    return dg.AssetKey(["shop", name])


class Shop:
    """The shop's lake and event log; the attributes are what the tests turn.

    Attributes:
        sales: what is sold, by day.
        sql: how each of the other tables is computed; one that is missing cannot be computed.
        code: the code versions; v1 unless said otherwise.
        declared: what assets declare about being complete.
        computed: what was computed, as name@partition, in order.
    """

    def __init__(self, environment: Environment, instance: dg.DagsterInstance) -> None:
        self.environment, self.instance = environment, instance
        self.warehouse, self.ledger = Warehouse.of(environment), Ledger.of(environment)
        self.warehouse.snapshot()
        self.sales = {day: [1, 2, 10 + number] for number, day in enumerate(DAYS)}
        self.sql = dict(SQL)
        self.code: dict[str, str] = {}
        self.declared: dict[str, Completeness] = {}
        self.computed: list[str] = []

    def build(
        self, *names: str, first: str = "", last: str = "", tags: Mapping[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialize the named assets in one run, for the partitions from `first` to `last`; all, unless given."""
        partitions = {key for name in names for key in self.node_pairs(name)}
        span = {
            "dagster/asset_partition_range_start": first or min(partitions),
            "dagster/asset_partition_range_end": last or first or max(partitions),
        }
        self.computed.clear()
        return dg.materialize(
            self._steps(names),
            instance=self.instance,
            resources={"warehouse": self.warehouse, "checker": self.checker},
            selection=dg.AssetSelection.assets(*map(key_of, names)),
            tags={**(span if any(partitions) else {}), **(tags or {})},
            raise_on_error=False,
        )

    def build_all(self) -> None:
        """Build every pair."""
        for names in (["sales", "evens", "sums"], ["weeks"], ["summary"]):
            assert self.build(*names).success

    @property
    def checker(self) -> PartitionChecker:
        locations: dict[str, list[dg.AssetsDefinition | dg.AssetSpec]] = {"shop": [], "other": []}
        for step in STEPS:
            locations["other" if step in OTHER_LOCATION else "shop"].append(self.step(step))
        return checker_of(self.environment, locations, warehouse=self.warehouse)

    @property
    def graph(self) -> Graph:
        return self.checker.graph()

    def inspector(self) -> Inspector:
        return self.checker.inspector(self.instance)

    def node_pairs(self, name: str) -> list[str]:
        calendar = CALENDARS[name]
        return [""] if calendar is None else list(calendar.get_partition_keys())

    def pairs(self, name: str) -> dict[str, PairState]:
        """How the pairs of an asset stand."""
        return {
            pair.partition: pair for pair in self.inspector().judged({f"shop/{name}": None})[f"shop/{name}"].pairs()
        }

    def pair(self, name: str, partition: str) -> PairState:
        return self.pairs(name)[partition]

    def wrong(self) -> dict[str, str]:
        """The states of all pairs that are not verified, by name@partition."""
        judged = self.inspector().judged(dict.fromkeys(self.graph.named))
        return {
            f"{name.partition('/')[2]}@{pair.partition}": str(pair.state)
            for name, of_asset in judged.items()
            for pair in of_asset.pairs(~of_asset.verified)
        }

    def states(self, name: str) -> set[State]:
        return {pair.state for pair in self.pairs(name).values()}

    def receipts(self, name: str) -> dict[str, Receipt]:
        return self.ledger.current(f"shop/{name}")

    def event(self, name: str, partition: str) -> dg.AssetMaterialization:
        """What the event log last recorded of a pair."""
        wanted = dg.AssetRecordsFilter(key_of(name), asset_partitions=[partition] if partition else None)
        (record,) = self.instance.fetch_materializations(wanted, limit=1).records
        assert record.asset_materialization
        return record.asset_materialization

    def ids(self) -> dict[str, dict[str, str]]:
        """The ids of all receipts, by asset and partition."""
        return {name: {key: one.id for key, one in self.receipts(name).items()} for name in CALENDARS}

    def checksums(self) -> dict[str, dict[str, str]]:
        return {name: self.warehouse.checksums(TableName("shop", name)) for name in CALENDARS}

    def file(self, name: str, partition: str) -> Path:
        """The data file of a pair."""
        files = LakeCatalog(self.warehouse).files()[TableName("shop", name)]
        (path,) = [path for path, key in zip(files.paths, files.partitions, strict=True) if key == partition]
        return Path(path)

    def write(self, name: str, partition: str, numbers: list[int], run: str = "somebody") -> None:
        """Replace what the lake holds of a pair, past the Partition Checker."""
        table = TableName("shop", name)
        self.warehouse.replace_partitions(
            table,
            [partition] if partition else None,
            _rows([(partition, number) for number in numbers], keyed=bool(partition)),
            Commit(run, f"shop/{name}"),
        )

    def declare(self, name: str, **declared: object) -> None:
        self.declared[name] = replace(self.declared.get(name, Completeness()), **declared)  # type: ignore[arg-type]

    def step(self, step: str) -> dg.AssetsDefinition:
        """The assets of one step, as the attributes of the shop now say."""

        @dg.multi_asset(
            name=step,
            specs=[self._spec(name) for name in STEPS[step]],
            can_subset=True,
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def compute(context: dg.AssetExecutionContext, checker: PartitionChecker) -> Iterator[object]:
            with checker.building(context) as build:
                for wave in build.waves():
                    for key, partitions in wave.items():
                        self._compute(key, partitions, context.run.run_id)
                        plots = {partition: {"plot": f"of run {context.run.run_id}"} for partition in partitions}
                        build.record_table(key, partitions, plots)
                yield from build.outputs()

        return compute

    def _steps(self, names: tuple[str, ...]) -> list[dg.AssetsDefinition]:
        return [self.step(step) for step, made in STEPS.items() if set(made) & set(names)]

    def _spec(self, name: str) -> dg.AssetSpec:
        return dg.AssetSpec(
            key_of(name),
            deps=[dg.AssetDep(key_of(upstream), partition_mapping=how) for upstream, how in NEEDS[name].items()],
            partitions_def=CALENDARS[name],
            code_version=self.code.get(name, "v1"),
            metadata=self.declared.get(name, Completeness()).metadata,
        )

    def _compute(self, key: dg.AssetKey, partitions: list[str], run: str) -> None:
        name = key.path[-1]
        self.computed += [f"{name}@{partition}" for partition in partitions]
        keys = None if partitions == [""] else partitions
        commit = Commit(run, key.to_user_string())
        if name == "sales":
            sold = _rows([(day, number) for day in partitions for number in self.sales[day]])
            self.warehouse.replace_partitions(TableName.of_key(key), keys, sold, commit)
            return
        reach = sorted({day for key in partitions for day in (key, _day_before(key))})
        words = {"keys": _tuple(partitions), "list": str(list(partitions)), "reach": _tuple(reach)}
        query = self.sql[name].format(**words)
        self.warehouse.replace_partitions(TableName.of_key(key), keys, lambda lake: lake.sql(query), commit)


def _rows(rows: list[tuple[str, int]], keyed: bool = True) -> pa.Table:
    keys = {"partition_key": pa.array([key for key, _ in rows], pa.string())} if keyed else {}
    return pa.table({**keys, "n": pa.array([number for _, number in rows], pa.int64())})


def _tuple(keys: list[str]) -> str:
    return f"({', '.join(map(repr, keys))})"


def _day_before(key: str) -> str:
    return (date.fromisoformat(key) - timedelta(days=1)).isoformat() if key else key
