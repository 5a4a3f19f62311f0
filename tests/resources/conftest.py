"""An environment for each database that Dagster's storages may be on."""

from dataclasses import replace

import pytest

from resources.environment import Environment


@pytest.fixture(params=["sqlite", "postgres"])
def stored_in(request: pytest.FixtureRequest, environment: Environment) -> Environment:
    """An environment whose Dagster stores its events in SQLite, or in a PostgreSQL database of its own."""
    if request.param == "sqlite":
        return environment
    return replace(environment, dagster_storage=request.getfixturevalue("postgres"))
