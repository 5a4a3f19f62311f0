"""The assets of every declared feature view: its online materialization, its statistics; and each team's skew.

Belongs here: factories from declarations to thin assets and checks. Not here: what they compute (`materialization.py`,
`statistics.py`, `skew.py`), the declarations.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa

from ml_assets.declaration_error import DeclarationError
from ml_assets.features import materialization, skew, statistics
from ml_assets.features.catalogue import Catalogue
from ml_assets.features.joins import mart_columns, unfit_columns
from ml_assets.features.materialization import SUMMARY_COLUMNS
from ml_assets.features.skew import BOUND, MEANINGS, SKEW_COLUMNS, SKEW_SCHEMA, Cause
from ml_assets.features.statistics import STATISTICS_COLUMNS
from ml_assets.features.views import FeatureView, OnDemandTransform
from platform_assets import partitions
from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.declared import PRODUCT
from platform_assets.backfills import ONE_RUN
from platform_assets.code_version import code_version
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of, partitioned_check
from platform_assets.table_metadata import table_metadata
from resources.feature_store.online_resource import OnlineStore
from resources.feature_store.online_rows import SETTING, OnlineStoreError
from resources.warehouse import PARTITION_KEY, TableName, Warehouse, physical_partitions

RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
"""Of a store that does not answer: it may be starting. What then still fails is asked for again by automation."""

_HOURLY = "0 * * * *"

Columns = Mapping[str, tuple[str, str]]


def online_key(view: FeatureView) -> dg.AssetKey:
    """The asset that brings `view` to the online store."""
    return dg.AssetKey([view.team, f"{view.name}_online"])


def statistics_key(view: FeatureView) -> dg.AssetKey:
    """The asset with the statistics of `view`."""
    return dg.AssetKey([view.team, f"{view.name}_statistics"])


def skew_key(team: str) -> dg.AssetKey:
    """The asset that compares what the team's views serve with what the lake says."""
    return dg.AssetKey([team, "feature_skew"])


def feature_assets(catalogue: Catalogue) -> tuple[list[dg.AssetsDefinition], list[dg.AssetChecksDefinition]]:
    """Every asset and check that the declarations ask for."""
    served = [view for view in catalogue.views if view.online]
    assets = [*map(_statistics, catalogue.views), *map(_online, served)]
    checks = [_declared_columns(view) for view in catalogue.views]
    for team in sorted({view.team for view in served}):
        of_team = [view for view in served if view.team == team]
        asset, check = _skew(team, of_team, [t for t in catalogue.transforms if t.reads.view in of_team])
        assets.append(asset)
        checks.append(check)
    return assets, checks


def _online(view: FeatureView) -> dg.AssetsDefinition:
    key = online_key(view)

    @dg.asset(
        key=key,
        deps=[dg.AssetDep(view.source_key, partition_mapping=partitions.same_time(view.lookback()))],
        partitions_def=view.calendar,
        backfill_policy=ONE_RUN["ml_assets"],
        retry_policy=RETRIES,
        kinds={"feast", "duckdb"},
        description=f"One row per partition: what the online store was given of `{view.name}` when it had ended. "
        f"{view.description}",
        metadata={
            **_metadata(SUMMARY_COLUMNS, view.source_key, view.read_columns),
            **Completeness(may_be_empty=False).metadata,
            **PRODUCT,
        },
        code_version=code_version(materialization.materialize, constants={"view": view.definition}),
    )
    def online(
        context: dg.AssetExecutionContext, warehouse: Warehouse, online_store: OnlineStore, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None]]:
        def rows(lake: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> pa.Table:
            return materialization.materialize(lake, view, online_store.rows(), wanted)

        yield from _replaced(context, warehouse, checker, key, SUMMARY_COLUMNS, rows)

    return online


def _statistics(view: FeatureView) -> dg.AssetsDefinition:
    key = statistics_key(view)

    @dg.asset(
        key=key,
        deps=[dg.AssetDep(view.source_key, partition_mapping=partitions.same_time())],
        partitions_def=view.calendar,
        backfill_policy=ONE_RUN["ml_assets"],
        kinds={"duckdb"},
        description=f"One row per partition and feature of `{view.name}`: counts, extremes and sketches that can be "
        "merged over any partitions without reading them again.",
        metadata=_metadata(STATISTICS_COLUMNS, view.source_key, [feature.read_from for feature in view.features]),
        code_version=code_version(statistics.partition_statistics, constants={"view": view.definition}),
    )
    def view_statistics(
        context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None]]:
        def rows(lake: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> pa.Table:
            return statistics.partition_statistics(warehouse, lake, view, wanted)

        yield from _replaced(context, warehouse, checker, key, STATISTICS_COLUMNS, rows)

    return view_statistics


def _skew(
    team: str, views: Sequence[FeatureView], transforms: Sequence[OnDemandTransform]
) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    key = skew_key(team)
    # Of those alike in length one that is known when its partition has ended, so that the others have one to look at,
    # and that begins first.
    coarsest = max(views, key=lambda one: (one.period, not one.is_known_at_start, -one.calendar.start.timestamp()))
    reads: dict[dg.AssetKey, list[int]] = defaultdict(list)
    for view in views:
        first, last = _reach(view, coarsest)
        reads[online_key(view)].append(last)
        reads[view.source_key] += first, last
    check = partitioned_check(
        "within_bound",
        key,
        coarsest.calendar,
        description=f"At most {BOUND:.0%} of a feature's compared values differ between online store and lake.",
    )

    @dg.asset(
        key=key,
        deps=[
            dg.AssetDep(read, partition_mapping=partitions.offset(min(periods), max(periods)))
            for read, periods in reads.items()
        ],
        partitions_def=coarsest.calendar,
        backfill_policy=ONE_RUN["ml_assets"],
        retry_policy=RETRIES,
        kinds={"feast", "duckdb"},
        description="One row per partition, view and feature: of how many sampled keys the online store says something "
        "else than the lake, and why. Keys of which the store knows something later are not compared.",
        metadata=_metadata(SKEW_COLUMNS, None, ()),
        code_version=code_version(
            skew.view_skew,
            *(transform.function for transform in transforms),
            constants={"views": {view.name: view.definition for view in views}},
        ),
    )
    def feature_skew(
        context: dg.AssetExecutionContext, warehouse: Warehouse, online_store: OnlineStore, checker: PartitionChecker
    ) -> Iterator[dg.MaterializeResult[None]]:
        def rows(lake: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> pa.Table:
            found: list[dict[str, Any]] = []
            for view in views:
                reach = {partition: covered for partition in wanted if (covered := _covered(view, partition, coarsest))}
                if not reach:
                    # The view's mart begins later, and it may never have been materialized yet.
                    continue
                newest = skew.newest_instant(lake, TableName.of_key(online_key(view)))
                for partition, covered in reach.items():
                    last = covered[-1]
                    compared = skew.view_skew(
                        lake,
                        view,
                        online_store.rows(),
                        last,
                        covered,
                        transforms,
                        moved_on=newest > view.known_at(last),
                    )
                    found += [one.row(partition) for one in compared]
            return pa.Table.from_pylist(found, SKEW_SCHEMA)

        yield from _replaced(context, warehouse, checker, key, SKEW_COLUMNS, rows)

    @dg.multi_asset_check(name=f"{team}_feature_skew_within_bound", specs=[check], can_subset=True)
    def within_bound(context: dg.AssetCheckExecutionContext, warehouse: Warehouse) -> Iterator[dg.AssetCheckEvaluation]:
        wanted = context.op_execution_context.partition_keys
        judged = evaluated_materializations(context.instance, key, wanted)
        with warehouse.reader() as lake:
            there = physical_partitions(lake, TableName.of_key(key)).keys()
            for partition in wanted:
                stored = warehouse.relation(lake, TableName.of_key(key), [partition]) if partition in there else None
                found = stored.to_arrow_table().to_pylist() if stored else []
                beyond = [row for row in found if row["skew"] > BOUND]
                yield evaluation_of(
                    judged,
                    check,
                    partition,
                    passed=partition in judged and not beyond,
                    description=_said(found, beyond) if partition in judged else "not built yet; materialize it",
                    metadata={f"{row['view']}:{row['feature']}": row["skew"] for row in beyond},
                )

    return feature_skew, within_bound


def _declared_columns(view: FeatureView) -> dg.AssetChecksDefinition:
    # On an asset of this location: a backfill of the mart selects every check on it, also those that only another
    # location could run, and fails.
    spec = dg.AssetCheckSpec(
        "mart_as_declared",
        asset=statistics_key(view),
        description=f"The mart has every column that the feature view {view.name} declares, of a type it can hold.",
        automation_condition=dg.AutomationCondition.on_cron(_HOURLY),
    )

    @dg.multi_asset_check(name=f"{view.name}_mart_as_declared", specs=[spec])
    def columns(warehouse: Warehouse) -> Iterator[dg.AssetCheckResult]:
        with warehouse.reader() as lake:
            try:
                wrong = unfit_columns(view, mart_columns(lake, view))
            except DeclarationError as error:
                wrong = [str(error)]
        yield dg.AssetCheckResult(
            asset_key=spec.asset_key,
            check_name=spec.name,
            passed=not wrong,
            description="\n".join(wrong) or "as declared",
            metadata={"columns declared": len(view.read_columns), "wrong": len(wrong)},
        )

    return columns


def _replaced(
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    checker: PartitionChecker,
    key: dg.AssetKey,
    columns: Columns,
    rows: Callable[[duckdb.DuckDBPyConnection, Sequence[str]], pa.Table],
) -> Iterator[dg.MaterializeResult[None]]:
    """Compute the partitions that are to be computed, write them in one transaction and record them."""

    def computed(wanted: Sequence[str]) -> Callable[[duckdb.DuckDBPyConnection], duckdb.DuckDBPyRelation]:
        with warehouse.reader() as lake, _explained(key):
            return partial(_typed, rows(lake, wanted), columns)

    with checker.building(context) as build:
        build.replace_table(key, computed)
        yield from build.outputs()


@contextmanager
def _explained(key: dg.AssetKey) -> Iterator[None]:
    """Say what to do about a store that is down, and do not try again what no retry mends."""
    name = key.to_user_string()
    try:
        yield
    except OnlineStoreError as error:
        raise dg.Failure(
            f"{name}: {error}. Nothing was recorded and nothing is lost: start the store or correct {SETTING}, then "
            "materialize these partitions again, or let headwater plan --unhealthy name them."
        ) from error
    except DeclarationError as error:
        raise dg.Failure(f"{name}: {error}", allow_retries=False) from error


def _typed(found: pa.Table, columns: Columns, lake: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    chosen = ", ".join(f'"{name}"::{kind} as "{name}"' for name, (kind, _) in columns.items())
    return lake.from_arrow(found).project(chosen)


def _metadata(columns: Columns, source: dg.AssetKey | None, read: Iterable[str]) -> dict[str, Any]:
    """Columns for the catalog; each but the key comes of all that is read."""
    deps = [dg.TableColumnDep(source, column) for column in read] if source else []
    return table_metadata(
        [dg.TableColumn(name, kind, description) for name, (kind, description) in columns.items()],
        {name: deps for name in columns if name != PARTITION_KEY},
    )


def _reach(view: FeatureView, coarsest: FeatureView) -> tuple[int, int]:
    """From which to which period of `coarsest`, relative to its own, the keys of `view` are sampled.

    One more than counts, so that expired ones are among them.
    """
    # The store is brought to the next partition of such a view when that begins: it is the one to compare then.
    last = int(_begins_with(view, coarsest)) - int(coarsest.is_known_at_start)
    return last - view.lookback(coarsest.period) - 1, last


def _begins_with(view: FeatureView, coarsest: FeatureView) -> bool:
    """Whether partitions of the view are known when those of `coarsest` begin; of shorter ones those that ended are."""
    return view.is_known_at_start and view.period == coarsest.period


def _covered(view: FeatureView, partition: str, coarsest: FeatureView) -> list[str]:
    """The partitions of the view's mart from which keys are sampled when `partition` of the coarsest is known."""
    until = coarsest.known_at(partition)
    first, last = _reach(view, coarsest)
    since = until - coarsest.period * (last - first + 1)
    end = view.known_at if _begins_with(view, coarsest) else view.ended
    keys = view.calendar.get_partition_keys()
    return list(keys[bisect_right(keys, since, key=view.known_at) : bisect_right(keys, until, key=end)])


def _said(found: Sequence[Mapping[str, Any]], beyond: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return "no view has begun yet that could be compared"
    if not beyond:
        compared = min(row["compared"] for row in found)
        return f"no feature differs ({compared} to {max(row['compared'] for row in found)} keys compared)"
    worst = max(beyond, key=lambda row: row["skew"])
    advice = MEANINGS[Cause(worst["cause"])]
    return (
        f"{len(beyond)} of {len(found)} features differ, most {worst['view']}:{worst['feature']} "
        f"({worst['skew']:.1%}, {worst['causes']}; {worst['example']}): {advice}"
    )
