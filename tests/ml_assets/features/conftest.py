"""A grocery with six weeks of sales, its lake, event log and online store its own."""

from collections.abc import Iterator

import dagster as dg
import pytest

from resources.environment import Environment
from tests.ml_assets.features.grocery import WEEKS, Grocery


@pytest.fixture
def grocery(environment: Environment) -> Iterator[Grocery]:
    """Every product is missing in every third week; nothing is built yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        rows = {
            week: [(one, one + number / 4, one * number, f"s{one % 3}") for one in range(1, 20) if (one + number) % 3]
            for number, week in enumerate(WEEKS)
        }
        yield Grocery(environment, instance, rows)
