"""What the tests of the notebooks share."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.environment import Environment
from tests.ml_assets.notebooks.market import Market, code_with_the_project, declared


@pytest.fixture(scope="package")
def market(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Iterator[Market]:
    """A market whose project has a champion."""
    environment = Environment.of({"HEADWATER_HOME": str(tmp_path_factory.mktemp("market"))})
    environment.extensions.symlink_to(extensions)
    code = code_with_the_project(tmp_path_factory.mktemp("code"))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Market(environment, instance, code, declared(code)).open()
