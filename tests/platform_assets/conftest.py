"""A shop of its own for every test that asks for one, empty or built."""

import shutil
from collections.abc import Iterator

import dagster as dg
import pytest

from resources.environment import Environment
from resources.warehouse import Warehouse
from tests.platform_assets.partition_checker.shop import Shop


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def shop(environment: Environment, instance: dg.DagsterInstance) -> Shop:
    """A shop of which nothing is built."""
    return Shop(environment, instance)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory, shared_environment: Environment) -> Environment:
    """The environment of a shop of which everything is built, for copies."""
    environment = Environment.of({"HEADWATER_HOME": str(tmp_path_factory.mktemp("built"))})
    environment.extensions.symlink_to(shared_environment.extensions)
    with dg.DagsterInstance.ephemeral() as instance:
        Shop(environment, instance).build_all()
    return environment


@pytest.fixture
def built(environment: Environment, instance: dg.DagsterInstance, built_once: Environment) -> Shop:
    """A shop of which everything is built: a copy of lake and receipts. Its event log knows nothing of it."""
    shutil.copytree(built_once.home / "lake", environment.home / "lake")
    with Warehouse.of(environment).catalog_reader(read_only=False) as catalog:
        catalog.execute(
            "update catalog.ducklake_metadata set value = ? where key = 'data_path'", [f"{environment.data}/"]
        )
    return Shop(environment, instance)
