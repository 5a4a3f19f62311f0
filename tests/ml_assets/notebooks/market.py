"""A small market on a real lake, with the README's project in a copy of the code: trained, judged and promoted."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa

from ml_assets.features.views import FeatureView
from ml_assets.pricing.feature_views import HOUSEHOLD_HABITS, PRODUCT_PRICES
from ml_assets.sdk.assets import project_assets
from ml_assets.sdk.declarations import Model
from ml_assets.sdk.tables import ProjectTables
from platform_assets.partitions import COMMERCE_WEEKLY
from resources.environment import REPOSITORY, Environment
from resources.model_registry import ModelRegistry
from resources.warehouse import Commit, Warehouse
from tests.ml_assets.readme_project import readme_project
from tests.small_graph import checker_of

PROJECT = "household_spend"
WEEKS = [(date(2017, 4, 10) + timedelta(weeks=n)).isoformat() for n in range(27)]
"""Weeks with sales: those that the training set looks back to, and its own."""
TRAINED = WEEKS[9:]
FOLDS = WEEKS[-2:]
HOUSEHOLDS, PRODUCTS = 50, 8


def code_with_the_project(folder: Path) -> Path:
    """The repository's code with the README's project put in its place; the repository stays as it is."""
    project = folder / "ml_assets" / PROJECT
    project.mkdir(parents=True)
    for name in ("platform_assets", "resources"):
        (folder / name).symlink_to(REPOSITORY / name)
    for entry in (REPOSITORY / "ml_assets").iterdir():
        if entry.name != "__pycache__":
            (folder / "ml_assets" / entry.name).symlink_to(entry)
    (project / "__init__.py").touch()
    (project / "project.py").write_text(readme_project())
    return folder


def declared(code: Path) -> Model:
    """The model of the README's project."""
    spec = importlib.util.spec_from_file_location(PROJECT, code / "ml_assets" / PROJECT / "project.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (model,) = module.MODELS
    assert isinstance(model, Model)
    return model


def household_weeks(seed: int = 0) -> pa.Table:
    """Each household spends about its own amount, and stays away in some weeks."""
    rng = np.random.default_rng(seed)
    usual = rng.gamma(4.0, 15.0, HOUSEHOLDS)
    rows = [
        {
            "household_id": household,
            "week": date.fromisoformat(week),
            "baskets": int(rng.integers(1, 5)),
            "days_shopped": int(rng.integers(1, 4)),
            "sales_usd": round(float(usual[household] * rng.gamma(4.0, 0.25)), 2),
            "discount_usd": round(float(rng.gamma(2.0, 2.0)), 2),
            "coupon_discount_usd": 0.0,
            "campaigns": int(rng.integers(0, 3)),
            "age": "UNKNOWN",
            "income": "UNKNOWN",
            "partition_key": week,
        }
        for week in WEEKS
        for household in range(HOUSEHOLDS)
        if rng.random() < 0.8
    ]
    return pa.Table.from_pylist(rows)


def product_weeks(seed: int = 1) -> pa.Table:
    """Each product is sold in each week, at a price of its own."""
    rng = np.random.default_rng(seed)
    columns = {feature.read_from: feature.type for feature in PRODUCT_PRICES.features}
    rows = [
        {
            "product_id": product,
            "week": date.fromisoformat(week),
            **{
                name: int(rng.integers(1, 40)) if kind == "BIGINT" else round(float(rng.random() * 10), 2)
                for name, kind in columns.items()
            },
            "partition_key": week,
        }
        for week in WEEKS
        for product in range(PRODUCTS)
    ]
    return pa.Table.from_pylist(rows)


@dataclass
class Market:
    """The market's lake and MLflow database, and the code that has its project."""

    environment: Environment
    instance: dg.DagsterInstance
    code: Path
    model: Model

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse.of(self.environment)

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry.of(self.environment)

    def deliver(self, view: FeatureView, rows: pa.Table) -> None:
        self.warehouse.replace_partitions(view.table, WEEKS, rows, Commit("test", "delivery"))

    def build(self, weeks: Sequence[str], *keys: dg.AssetKey) -> None:
        """One run of `weeks` of the assets `keys`."""
        project = [one for one in project_assets(self.model).assets or () if isinstance(one, dg.AssetsDefinition)]
        upstream = dg.AssetSpec(HOUSEHOLD_HABITS.source_key, partitions_def=COMMERCE_WEEKLY)
        stores = {"warehouse": self.warehouse, "model_registry": self.registry}
        checker = checker_of(self.environment, {"ml_assets": [upstream, *project]}, **stores)
        span = {"dagster/asset_partition_range_start": weeks[0], "dagster/asset_partition_range_end": weeks[-1]}
        dg.materialize(
            [one for one in project if set(keys) & one.keys],
            instance=self.instance,
            resources={**stores, "checker": checker},
            selection=dg.AssetSelection.assets(*keys),
            tags=span,
        )

    def open(self) -> "Market":
        """Deliver the marts, and let the SDK's own assets build the training set and the folds."""
        self.deliver(HOUSEHOLD_HABITS, household_weeks())
        self.deliver(PRODUCT_PRICES, product_weeks())
        tables = ProjectTables(self.model)
        self.build(TRAINED, self.model.training_set.key)
        self.build(FOLDS, tables.candidate, tables.evaluation, tables.version, tables.champion, tables.predictions)
        return self
