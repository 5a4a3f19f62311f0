"""Online stores for the tests: one of each kind, empty."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from resources.feature_store.online_rows import OnlineRows, open_rows
from tests.patience import PATIENCE_SECONDS

# Read before the environment of a test takes the variables of the platform away.
REDIS_URL = os.environ.get("HEADWATER_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


@dataclass(frozen=True)
class Place:
    """Where an online store is."""

    address: str
    namespace: str

    def open(self) -> OnlineRows:
        """Its rows, with connections of their own."""
        return open_rows(self.address, self.namespace)


@pytest.fixture
def redis_place() -> Iterator[Place]:
    """A namespace of its own in the Redis named by HEADWATER_TEST_REDIS_URL (or the local default).

    Skips, and says so, where no server answers.
    """
    import redis

    client = redis.Redis.from_url(REDIS_URL, socket_connect_timeout=PATIENCE_SECONDS)
    try:
        client.ping()
    except redis.RedisError as error:
        pytest.skip(f"no Redis at {REDIS_URL} ({error}); set HEADWATER_TEST_REDIS_URL")
    namespace = f"headwater_test_{os.getpid()}_{os.urandom(3).hex()}"
    yield Place(REDIS_URL, namespace)
    for key in client.scan_iter(f"{namespace}:*", count=1000):
        client.delete(key)
    client.close()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where an empty store of each kind is."""
    if request.param == "redis":
        found: Place = request.getfixturevalue("redis_place")
        return found
    return Place(str(tmp_path / "online" / "rows.sqlite"), "headwater")


@pytest.fixture
def rows(place: Place) -> OnlineRows:
    """An empty, ready store of each kind."""
    found = place.open()
    found.prepare()
    return found
