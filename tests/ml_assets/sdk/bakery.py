"""A small bakery chain, made from a seed: loaves sold by shop and week, and what was known of a shop before a week."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_assets.features.source import LakeFeatures
from ml_assets.sdk.assets import project_assets
from ml_assets.sdk.declarations import Model
from ml_assets.sdk.tables import ProjectTables
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitions import offset
from resources.environment import Environment
from resources.feature_store.point_in_time import Feature, View
from resources.model_registry import ModelRegistry
from resources.warehouse import Commit, TableName, Warehouse
from tests.small_graph import checker_of

LOAVES = dg.AssetKey(["commerce", "loaves"])
FACTS = dg.AssetKey(["commerce", "shop_facts"])
FIRST_WEEK = date(2017, 1, 2)


def weeks_from(first: str, count: int) -> list[str]:
    return [(date.fromisoformat(first) + timedelta(weeks=n)).isoformat() for n in range(count)]


WEEKS = weeks_from("2017-01-02", 13)
FOLDS = weeks_from("2017-03-06", 3)


def weekly(first: str, end: str) -> dg.WeeklyPartitionsDefinition:
    return dg.WeeklyPartitionsDefinition(start_date=first, end_date=end, timezone="America/New_York", day_offset=1)


SALES_CALENDAR = weekly("2017-01-02", "2017-04-24")
FOLD_CALENDAR = weekly("2017-03-06", "2017-04-24")

FACT_FEATURES = LakeFeatures(
    views=(
        View(
            "shop",
            TableName.of_key(FACTS),
            {"shop_id": "shop_id"},
            "known_at",
            (Feature("footfall", "footfall", "DOUBLE"), Feature("sold_before", "sold_before", "DOUBLE")),
            ttl=timedelta(days=8),
        ),
    ),
    deps=(dg.AssetDep(FACTS, partition_mapping=offset(-1, 0)),),
)


def facts(shops: int = 120, seed: int = 0, weeks: int = len(WEEKS)) -> pa.Table:
    """What was known of each shop when a week began."""
    rng = np.random.default_rng(seed)
    footfall = rng.gamma(4.0, 25.0, size=(weeks + 1, shops))
    sold = loaves_sold(footfall, seed)
    rows = [
        {
            "shop_id": shop,
            "known_at": datetime.combine(FIRST_WEEK, datetime.min.time(), UTC) + timedelta(weeks=week),
            "footfall": footfall[week, shop],
            "sold_before": sold[week - 1, shop] if week else sold[0].mean(),
            "partition_key": (FIRST_WEEK + timedelta(weeks=week)).isoformat(),
        }
        for week in range(weeks)
        for shop in range(shops)
    ]
    return pa.Table.from_pylist(rows)


def loaves(shops: int = 120, seed: int = 0, weeks: int = len(WEEKS)) -> pa.Table:
    """What each shop then sold."""
    footfall = np.random.default_rng(seed).gamma(4.0, 25.0, size=(weeks + 1, shops))
    sold = loaves_sold(footfall, seed)
    rows = [
        {
            "shop_id": shop,
            "week": FIRST_WEEK + timedelta(weeks=week),
            "sold": sold[week, shop],
            "busy": float(sold[week, shop] > 70),
            "partition_key": (FIRST_WEEK + timedelta(weeks=week)).isoformat(),
        }
        for week in range(weeks)
        for shop in range(shops)
    ]
    return pa.Table.from_pylist(rows)


def loaves_sold(footfall: np.ndarray, seed: int) -> np.ndarray:
    return np.round(10 + 0.5 * footfall + np.random.default_rng(seed + 1).normal(0, 4, size=footfall.shape), 3)


@dataclass
class Bakery:
    """A lake, an MLflow database and a Dagster instance of their own, with the assets of some models."""

    environment: Environment
    warehouse: Warehouse
    registry: ModelRegistry
    instance: dg.DagsterInstance
    checker: PartitionChecker
    assets: list[dg.AssetsDefinition]

    @classmethod
    def of(cls, environment: Environment, instance: dg.DagsterInstance, *models: Model) -> "Bakery":
        warehouse, registry = Warehouse.of(environment), ModelRegistry.of(environment)
        assets = [one for one in project_assets(*models).assets or () if isinstance(one, dg.AssetsDefinition)]
        upstream = [dg.AssetSpec(key, partitions_def=SALES_CALENDAR) for key in (LOAVES, FACTS)]
        checker = checker_of(
            environment, {"ml_assets": [*upstream, *assets]}, warehouse=warehouse, model_registry=registry
        )
        return cls(environment, warehouse, registry, instance, checker, assets)

    def declared(self, *models: Model) -> "Bakery":
        """The same stores under other declarations."""
        return Bakery.of(self.environment, self.instance, *models)

    def deliver(self, key: dg.AssetKey, rows: pa.Table, weeks: Iterable[str]) -> None:
        arrived = rows.filter(pc.is_in(rows["partition_key"], pa.array(list(weeks))))
        self.warehouse.replace_partitions(TableName.of_key(key), list(weeks), arrived, Commit("test", "delivery"))

    def open(self) -> "Bakery":
        self.deliver(FACTS, facts(), WEEKS)
        self.deliver(LOAVES, loaves(), WEEKS)
        return self

    def build(
        self,
        weeks: list[str],
        *keys: dg.AssetKey,
        tags: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """One run of all `weeks` of the assets `keys`, as a single-run backfill makes it."""
        return dg.materialize(
            [one for one in self.assets if set(keys) & one.keys],
            instance=self.instance,
            resources={"warehouse": self.warehouse, "model_registry": self.registry, "checker": self.checker},
            selection=dg.AssetSelection.assets(*keys),
            tags={
                "dagster/asset_partition_range_start": weeks[0],
                "dagster/asset_partition_range_end": weeks[-1],
                **(tags or {}),
            },
            run_config=config,
            raise_on_error=False,
        )

    def train(self, model: Model, weeks: list[str], **options: Any) -> dg.ExecuteInProcessResult:
        """Every stage of the folds `weeks`."""
        keys = ProjectTables(model)
        stages = [
            keys.candidate,
            keys.evaluation,
            keys.version,
            keys.champion,
            *([keys.predictions] if model.batch else []),
        ]
        return self.build(weeks, *stages, **options)

    def rows(self, key: dg.AssetKey, week: str) -> list[dict[str, Any]]:
        with self.warehouse.reader() as lake:
            return self.warehouse.relation(lake, TableName.of_key(key), [week]).to_arrow_table().to_pylist()

    def checksums(self, key: dg.AssetKey) -> dict[str, str]:
        return self.warehouse.checksums(TableName.of_key(key))


def failures(result: dg.ExecuteInProcessResult) -> str:
    return " ".join(
        f"{event.step_failure_data.error.message} {event.step_failure_data.error.cause or ''}"
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.error
    )
