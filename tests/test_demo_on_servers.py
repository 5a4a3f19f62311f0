"""The main job with all that can be on servers: lake catalog, receipts and Dagster on PostgreSQL, features on Redis.

Belongs here: two weeks of sales, as far as the marts and the features, the last days by sensors. Not here: how long
more of it takes against SQLite (`tests/benchmarks/storage.py`).
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, text

from ml_assets.demo.report import summarize
from platform_assets.asset_graph.published import workspace_graph
from resources.environment import Environment
from tests.patience import SOAK
from tests.small_demo import TWO_WEEKS_OF_SALES, small_demo

pytestmark = pytest.mark.xdist_group("recovery")

DAYS = 3 if SOAK else 1
"""That come by themselves; the last of them completes a week."""


def test_days_come_by_themselves_on_postgresql_and_redis(
    postgres: str,
    postgres_for_dagster: str,
    empty_online_store: str,
    tmp_path: Path,
    extensions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("HEADWATER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADWATER_CATALOG", postgres)
    monkeypatch.setenv("HEADWATER_DAGSTER_STORAGE", postgres_for_dagster)
    monkeypatch.setenv("HEADWATER_ONLINE_STORE", empty_online_store)
    environment = Environment.current()
    environment.home.mkdir()
    environment.extensions.symlink_to(extensions)
    for name, value in environment.variables.items():
        monkeypatch.setenv(name, value)
    outcome = small_demo(environment, replace(TWO_WEEKS_OF_SALES, new_days=DAYS))
    assert len([stage for stage in outcome.built if stage.startswith("new day")]) == DAYS
    assert all(outcome.built.values())
    report = summarize(environment, outcome, workspace_graph(environment.home))
    assert {asset.asset: asset.checks_failed for asset in report.assets if asset.checks_failed} == {}
    by_asset = {asset.asset: asset for asset in report.assets}
    assert by_asset["commerce/product_weeks"].pairs == 2
    assert by_asset["commerce/baskets"].pairs == 8

    local = [environment.home / "lake" / "catalog.sqlite", environment.home / "lake" / "ledger.sqlite"]
    assert not any(path.exists() for path in (*local, environment.home / "online", environment.dagster_home / "events"))
    assert redis.Redis.from_url(empty_online_store).dbsize() > 0
    with create_engine(postgres_for_dagster.replace("postgresql:", "postgresql+psycopg2:")).connect() as dagster:
        assert (dagster.execute(text("select count(*) from event_logs")).scalar() or 0) > 1_000
    logs = b"".join(path.read_bytes() for path in (environment.home / "logs").iterdir())
    assert "▕".encode() not in logs, "a progress bar of DuckDB is in the logs"
