"""Empty places on real servers, for the time of a block: a database of PostgreSQL, a database of Redis.

Belongs here: finding the servers, making places and removing them. Not here: what is done without a server, which a
test's fixture says.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import redis

from tests.patience import PATIENCE_SECONDS

POSTGRES = os.environ.get("HEADWATER_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("HEADWATER_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


class NoServer(RuntimeError):
    """No server answers, or it has no empty place; the message names it and the variable to set."""


@contextmanager
def empty_database() -> Iterator[str]:
    """The URL of an empty PostgreSQL database, dropped at the end.

    Raises:
        NoServer: no server answers.
    """
    try:
        connection = psycopg2.connect(POSTGRES, connect_timeout=PATIENCE_SECONDS)
    except psycopg2.OperationalError as error:
        raise NoServer(
            f"no PostgreSQL at {POSTGRES} ({str(error).splitlines()[0]}); set HEADWATER_TEST_POSTGRES"
        ) from None
    connection.autocommit = True
    name = f"headwater_test_{os.getpid()}_{os.urandom(3).hex()}"
    with connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
    try:
        yield f"{POSTGRES.rsplit('/', 1)[0]}/{name}"
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"drop database {name} with (force)")
        connection.close()


@contextmanager
def empty_redis() -> Iterator[str]:
    """The URL of a database of Redis that held nothing, emptied at the end; not the first, which people use.

    Raises:
        NoServer: no server answers, or all of its databases hold something.
    """
    server = REDIS.rsplit("/", 1)[0] if REDIS.count("/") > 2 else REDIS
    for number in range(15, 0, -1):
        with redis.Redis.from_url(f"{server}/{number}", socket_connect_timeout=PATIENCE_SECONDS) as client:
            try:
                held = client.dbsize()
            except redis.ConnectionError as error:
                raise NoServer(f"no Redis at {server} ({error}); set HEADWATER_TEST_REDIS_URL") from None
            if not held:
                try:
                    yield f"{server}/{number}"
                finally:
                    client.flushdb()
                return
    raise NoServer(f"every database of the Redis at {server} holds something; empty one")
