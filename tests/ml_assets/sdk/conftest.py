"""What the tests of the SDK share."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.environment import Environment
from tests.ml_assets.sdk.bakery import WEEKS, Bakery
from tests.ml_assets.sdk.lightgbm_project import BREAD, SALES
from tests.ml_assets.sdk.sklearn_project import BUSY, BUSY_WEEKS


@pytest.fixture(scope="package")
def bakery(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Iterator[Bakery]:
    """A bakery chain with the training sets of both projects."""
    environment = Environment.of({"HEADWATER_HOME": str(tmp_path_factory.mktemp("bakery"))})
    environment.extensions.symlink_to(extensions)
    with dg.DagsterInstance.ephemeral() as instance:
        bakery = Bakery.of(environment, instance, BREAD, BUSY).open()
        assert bakery.build(WEEKS, SALES.key, BUSY_WEEKS.key).success
        yield bakery
