"""What the tests of pricing share: a connection, and a market whose assets are built."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from resources.environment import Environment
from tests.ml_assets.pricing.market import FOLDS, Market, failure


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture(scope="package")
def market(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Iterator[Market]:
    """A year of the grocery; every asset is built for the weeks that its tests look at, in one run each."""
    environment = Environment.of({"HEADWATER_HOME": str(tmp_path_factory.mktemp("market"))})
    environment.extensions.symlink_to(extensions)
    with dg.DagsterInstance.ephemeral() as instance:
        market = Market(environment, instance).open()
        for name, weeks in {
            "price_elasticities": FOLDS[-4:],
            "price_recommendations": FOLDS[-4:-1],
            "demand_backtest": FOLDS[:-1],
            "demand_backtest_summary": FOLDS[-2:-1],
        }.items():
            result = market.build(name, weeks)
            assert result.success, failure(result)
        yield market
