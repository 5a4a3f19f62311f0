"""A grocery on a real lake: three weeks of marts that tests fill, and the feature assets over them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import dagster as dg
import pyarrow as pa

from ml_assets.features.assets import feature_assets
from ml_assets.features.catalogue import Catalogue
from ml_assets.features.views import EndOf, Entity, Feature, FeatureView, OnDemandTransform, RequestSource
from platform_assets import partitions
from platform_assets.asset_graph.declared import declared_graph
from platform_assets.partition_checker.checker import PartitionChecker
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore
from resources.warehouse import Commit, TableName, Warehouse
from tests.small_graph import checker_over

WEEKS = ["2017-10-23", "2017-10-30", "2017-11-06", "2017-11-13", "2017-11-20", "2017-11-27"]
"""Clocks go back in the second of these weeks."""

BEFORE = ["2017-10-02", "2017-10-09", "2017-10-16"]
"""Weeks without sales, which the first of the others look back to."""

PRODUCT = Entity("product", "product_id", "BIGINT", "One product.")
PRICES = FeatureView(
    name="prices",
    team="commerce",
    entities=(PRODUCT,),
    source="commerce/product_weeks",
    grain="weekly",
    timestamp=EndOf("week"),
    ttl=timedelta(weeks=2),
    description="One row per product and week.",
    features=(
        Feature("regular_price_usd", "DOUBLE", "Shelf price."),
        Feature("units_sold", "BIGINT", "Units.", column="units"),
        Feature("shelf", "VARCHAR", "Where it stands."),
    ),
)


def discount(proposed_price_usd: float | None, regular_price_usd: float | None) -> float | None:
    return None if not regular_price_usd or proposed_price_usd is None else 1 - proposed_price_usd / regular_price_usd


DISCOUNT = OnDemandTransform(
    name="proposed",
    team="commerce",
    request=RequestSource("proposal", (Feature("proposed_price_usd", "DOUBLE", "Price."),), "A price."),
    reads=PRICES.select("regular_price_usd"),
    output=Feature("proposed_discount", "DOUBLE", "Its discount."),
    function=discount,
    description="One value per product and price.",
    examples=({"proposed_price_usd": 1.5},),
)

Row = tuple[int, float | None, int | None, str | None]
"""Product, price, units, shelf."""


def mart(rows: Mapping[str, Sequence[Row]]) -> pa.Table:
    """`rows` by week as `commerce.product_weeks`."""
    flat = [(week, *row) for week, of_week in rows.items() for row in of_week]
    columns = list(zip(*flat, strict=True)) if flat else [()] * 5
    return pa.table(
        {
            "week": pa.array([date.fromisoformat(week) for week in columns[0]], pa.date32()),
            "product_id": pa.array(columns[1], pa.int64()),
            "regular_price_usd": pa.array(columns[2], pa.float64()),
            "units": pa.array(columns[3], pa.int64()),
            "shelf": pa.array(columns[4], pa.string()),
            "partition_key": pa.array(columns[0], pa.string()),
        }
    )


@dataclass
class Grocery:
    """The grocery's lake, event log and online store; `rows` are what the mart is to hold, by week."""

    environment: Environment
    instance: dg.DagsterInstance
    rows: dict[str, list[Row]] = field(default_factory=dict)
    catalogue: Catalogue = field(default_factory=lambda: Catalogue((PRICES,), (DISCOUNT,)))
    online: OnlineStore | None = None

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse.of(self.environment)

    @property
    def store(self) -> OnlineStore:
        return self.online or OnlineStore.of(self.environment)

    @property
    def resources(self) -> dict[str, object]:
        return {
            "warehouse": self.warehouse,
            "online_store": self.store,
            "checker": self._checker(),
        }

    def assets(self) -> list[dg.AssetsDefinition]:
        return [self._mart(), *feature_assets(self.catalogue)[0]]

    def build(self, name: str, *weeks: str) -> dg.ExecuteInProcessResult:
        """Materialize `commerce/<name>` for `weeks`, which are neighbours; all of them, unless given."""
        asked = sorted(weeks or ([*BEFORE, *WEEKS] if name == "product_weeks" else WEEKS))
        return dg.materialize(
            self.assets(),
            instance=self.instance,
            resources=self.resources,
            selection=[dg.AssetKey(["commerce", name])],
            tags=_span(asked),
            raise_on_error=False,
        )

    def judged(self, asset: str, check: str) -> list[dg.AssetCheckEvaluation]:
        """The verdicts of a check of `commerce/<asset>`, in order of partition."""
        _, checks = feature_assets(self.catalogue)
        result = dg.materialize(
            [*self.assets(), *checks],
            instance=self.instance,
            resources=self.resources,
            selection=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["commerce", asset]), check)),
            tags=_span(WEEKS) if asset == "feature_skew" else {},
        )
        return sorted(result.get_asset_check_evaluations(), key=lambda one: one.partition or "")

    def table(self, name: str) -> list[dict[str, object]]:
        """What the lake holds of `commerce.<name>`, in order of partition."""
        with self.warehouse.reader() as lake:
            relation = self.warehouse.relation(lake, TableName("commerce", name)).order("partition_key")
            return relation.to_arrow_table().to_pylist()

    def _checker(self) -> PartitionChecker:
        provided = {
            "warehouse": self.warehouse,
            "online_store": self.store,
            "checker": PartitionChecker.of(self.environment),
        }
        graph = declared_graph({"grocery": dg.Definitions(self.assets(), resources=provided)})
        return checker_over(self.environment, graph)

    def _mart(self) -> dg.AssetsDefinition:
        key = PRICES.source_key

        @dg.asset(
            key=key,
            partitions_def=partitions.COMMERCE_WEEKLY,
            backfill_policy=dg.BackfillPolicy.single_run(),
            code_version="1",
        )
        def product_weeks(
            context: dg.AssetExecutionContext, checker: PartitionChecker
        ) -> Iterator[dg.MaterializeResult[None]]:
            with checker.building(context) as build:
                for wave in build.waves():
                    wanted = wave[key]
                    self.write({week: self.rows.get(week, []) for week in wanted}, context.run.run_id)
                    build.record_table(key, wanted)
                yield from build.outputs()

        return product_weeks

    def write(self, rows: Mapping[str, Sequence[Row]], run: str = "somebody") -> None:
        """Replace weeks of the mart, past the Partition Checker."""
        commit = Commit(run, "commerce/product_weeks")
        self.warehouse.replace_partitions(PRICES.table, list(rows), mart(rows), commit)


def _span(weeks: Sequence[str]) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": weeks[0], "dagster/asset_partition_range_end": weeks[-1]}
