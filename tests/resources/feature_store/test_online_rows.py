"""Where packed rows are kept: what is newer stays, what left the source goes, and a store that is down says so fast."""

import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from resources.feature_store.entity_keys import EntityKeys
from resources.feature_store.online_rows import OnlineRows, OnlineStoreError, RedisRows, open_rows
from resources.feature_store.packed_rows import RowSchema
from tests.patience import PATIENCE_SECONDS, SOON_SECONDS, slowness
from tests.resources.feature_store.conftest import Place

VIEW, OTHER = "shop/customers", "shop/customer_days"
SCHEMA = RowSchema.of({"n": "int64", "name": "string"})
NOON = datetime(2017, 3, 1, 12, tzinfo=UTC)
FOREVER = datetime(9000, 1, 1, tzinfo=UTC)
REPOSITORY = Path(__file__).parents[3]


def keys_of(*customers: int, view: str = VIEW) -> list[bytes]:
    return EntityKeys(view, {"customer": "int64"}).of_values({"customer": customers}, len(customers))


def rows_of(
    *numbers: int, at: datetime | Sequence[datetime] = NOON, created: datetime | Sequence[datetime] | None = None
) -> list[bytes]:
    def times(given: datetime | Sequence[datetime]) -> pa.Array:
        return pa.array([given] * len(numbers) if isinstance(given, datetime) else given, pa.timestamp("us", "UTC"))

    table = pa.table({"n": numbers, "name": [f"Ærø {number}" for number in numbers]})
    return SCHEMA.pack(table, times(at), None if created is None else times(created))


def numbers_in(found: Sequence[bytes | None]) -> list[int | None]:
    decode = SCHEMA.decoder(["n"], lambda fingerprint: None)
    return [None if row is None else decode(row)[1][0] for row in found]


def write(rows: OnlineRows, keys: Sequence[bytes], packed: Sequence[bytes], generation: int = 0) -> None:
    rows.write(VIEW, SCHEMA, keys, packed, generation=generation)


def test_rows_of_several_views_are_read_at_once_in_the_order_of_their_keys(rows: OnlineRows) -> None:
    write(rows, keys_of(1, 2), rows_of(10, 20))
    rows.write(OTHER, SCHEMA, keys_of(1, view=OTHER), rows_of(99))
    asked = [*keys_of(2, 3), *keys_of(1, view=OTHER), *keys_of(1), *keys_of(2)]
    assert numbers_in(rows.read(asked)) == [20, None, 99, 10, 20]
    assert rows.read([]) == []
    assert (rows.count(VIEW), rows.count(OTHER)) == (2, 1)


def test_many_more_keys_than_fit_a_statement_are_read(rows: OnlineRows) -> None:
    write(rows, keys_of(5, 40_000), rows_of(50, 60))
    found = numbers_in(rows.read(keys_of(*range(70_000))))
    assert {at: number for at, number in enumerate(found) if number is not None} == {5: 50, 40_000: 60}


def test_a_row_never_replaces_a_newer_one(rows: OnlineRows) -> None:
    key = keys_of(1)
    write(rows, key, rows_of(2, at=NOON, created=NOON))
    write(rows, key, rows_of(1, at=NOON - timedelta(microseconds=1), created=NOON + timedelta(days=1)))
    assert numbers_in(rows.read(key)) == [2]
    write(rows, key, rows_of(1, at=NOON, created=NOON - timedelta(microseconds=1)))
    assert numbers_in(rows.read(key)) == [2]
    write(rows, key, rows_of(1, at=NOON))
    assert numbers_in(rows.read(key)) == [2]
    write(rows, key, rows_of(3, at=NOON, created=NOON))
    assert numbers_in(rows.read(key)) == [3]
    write(rows, key, rows_of(4, at=NOON + timedelta(microseconds=1)))
    assert numbers_in(rows.read(key)) == [4]


def test_batches_in_any_order_and_again_leave_the_newest_of_each_key(rows: OnlineRows) -> None:
    chance = random.Random(7)
    writes = []
    for number in range(400):
        moment = NOON + timedelta(microseconds=chance.randrange(-(2**55), 2**55))
        writes.append((chance.randrange(20), number, moment, moment + timedelta(seconds=chance.randrange(3))))
    newest: dict[int, tuple[datetime, datetime, int]] = {}
    for customer, number, event, created in writes:
        newest[customer] = max(newest.get(customer, (event, created, number)), (event, created, number))
    for _ in range(2):
        chance.shuffle(writes)
        for begin in range(0, 400, 50):
            customers, numbers, events, creations = zip(*writes[begin : begin + 50], strict=True)
            write(rows, keys_of(*customers), rows_of(*numbers, at=events, created=creations))
    found = numbers_in(rows.read(keys_of(*newest)))
    assert dict(zip(newest, found, strict=True)) == {customer: number for customer, (_, _, number) in newest.items()}


def test_times_before_1970_are_older_than_those_after(rows: OnlineRows) -> None:
    write(rows, keys_of(1), rows_of(1, at=datetime(1970, 1, 2, tzinfo=UTC)))
    write(rows, keys_of(1), rows_of(2, at=datetime(1969, 12, 31, tzinfo=UTC)))
    assert numbers_in(rows.read(keys_of(1))) == [1]


def test_keys_that_left_the_source_are_deleted_and_those_of_other_views_stay(rows: OnlineRows) -> None:
    write(rows, keys_of(1, 2, 3), rows_of(1, 2, 3), rows.begin(VIEW))
    rows.write(OTHER, SCHEMA, keys_of(2, view=OTHER), rows_of(9))
    generation = rows.begin(VIEW)
    write(rows, keys_of(1), rows_of(1), generation)
    write(rows, keys_of(4), rows_of(4), generation)
    assert rows.expire(VIEW, generation, FOREVER) == 2
    assert numbers_in(rows.read([*keys_of(1, 2, 3, 4), *keys_of(2, view=OTHER)])) == [1, None, None, 4, 9]
    assert rows.expire(VIEW, generation, FOREVER) == 0


def test_a_key_whose_row_is_newer_in_the_store_is_in_the_source_all_the_same(rows: OnlineRows) -> None:
    write(rows, keys_of(1), rows_of(2, at=NOON + timedelta(hours=1)))
    generation = rows.begin(VIEW)
    write(rows, keys_of(1), rows_of(1), generation)
    assert rows.expire(VIEW, generation, FOREVER) == 0
    assert numbers_in(rows.read(keys_of(1))) == [2]


def test_a_row_newer_than_the_instant_that_was_materialized_stays(rows: OnlineRows) -> None:
    second = timedelta(seconds=1)
    write(rows, keys_of(1, 2, 3), rows_of(1, 2, 3, at=[NOON - second, NOON, NOON + second]))
    generation = rows.begin(VIEW)
    assert rows.expire(VIEW, generation, NOON) == 2
    assert numbers_in(rows.read(keys_of(1, 2, 3))) == [None, None, 3]
    assert rows.expire(VIEW, rows.begin(VIEW), NOON + second) == 1


def test_what_the_source_held_as_of_an_instant_replaces_what_is_not_later(rows: OnlineRows) -> None:
    hour = timedelta(hours=1)
    before_1970 = datetime(1969, 12, 31, tzinfo=UTC)
    write(rows, keys_of(1, 2, 3), rows_of(1, 2, 3, at=[NOON, NOON + hour, NOON + 2 * hour]))
    write(rows, keys_of(4), rows_of(4, at=before_1970))
    older = rows_of(10, 20, 30, 40, at=[NOON - hour] * 3 + [before_1970 - hour])
    rows.write(VIEW, SCHEMA, keys_of(1, 2, 3, 4), older, as_of=NOON + hour)
    assert numbers_in(rows.read(keys_of(1, 2, 3, 4))) == [10, 20, 3, 40]
    # What was replaced is as if it had never been: a row between the two is newer than the one that is there.
    write(rows, keys_of(1), rows_of(11, at=NOON - hour / 2))
    assert numbers_in(rows.read(keys_of(1))) == [11]


def test_an_interrupted_materialization_deletes_nothing_and_is_gone_on_with(rows: OnlineRows, place: Place) -> None:
    write(rows, keys_of(*range(10)), rows_of(*range(10)), rows.begin(VIEW))
    generation = rows.begin(VIEW)
    write(rows, keys_of(0, 1), rows_of(100, 101), generation)
    # The process ends here; another one goes on.
    later = place.open()
    assert later.count(VIEW) == 10
    write(later, keys_of(2, 3), rows_of(102, 103), generation)
    assert later.expire(VIEW, generation, FOREVER) == 6
    assert numbers_in(later.read(keys_of(*range(5)))) == [100, 101, 102, 103, None]


def test_one_begun_again_from_the_start_ends_like_one_that_was_not_interrupted(rows: OnlineRows) -> None:
    write(rows, keys_of(1, 2), rows_of(1, 2), rows.begin(VIEW))
    write(rows, keys_of(2, 3), rows_of(2, 3), rows.begin(VIEW))
    generation = rows.begin(VIEW)
    write(rows, keys_of(3, 4), rows_of(3, 4), generation)
    assert rows.expire(VIEW, generation, FOREVER) == 2
    assert numbers_in(rows.read(keys_of(1, 2, 3, 4))) == [None, None, 3, 4]


def test_a_materialization_that_ends_late_deletes_nothing_of_a_later_one(rows: OnlineRows) -> None:
    early, late = rows.begin(VIEW), rows.begin(VIEW)
    assert late > early
    write(rows, keys_of(1, 2), rows_of(1, 2), late)
    write(rows, keys_of(1), rows_of(1), early)
    assert rows.expire(VIEW, early, FOREVER) == 0
    assert rows.expire(VIEW, late, FOREVER) == 0
    assert rows.count(VIEW) == 2


def test_thousands_of_keys_are_deleted_and_kept(rows: OnlineRows) -> None:
    every = range(5_000)
    write(rows, keys_of(*every), rows_of(*every), rows.begin(VIEW))
    generation = rows.begin(VIEW)
    write(rows, keys_of(*every[::2]), rows_of(*every[::2]), generation)
    assert rows.expire(VIEW, generation, FOREVER) == 2_500
    found = numbers_in(rows.read(keys_of(*every)))
    assert found == [number if number % 2 == 0 else None for number in every]


def test_a_deleted_view_has_no_rows_and_others_keep_theirs(rows: OnlineRows) -> None:
    write(rows, keys_of(*range(2_500)), rows_of(*range(2_500), at=FOREVER), rows.begin(VIEW))
    rows.write(OTHER, SCHEMA, keys_of(1, view=OTHER), rows_of(9))
    rows.delete(VIEW)
    rows.delete(VIEW)
    assert (rows.count(VIEW), rows.count(OTHER)) == (0, 1)
    assert numbers_in(rows.read([*keys_of(1), *keys_of(1, view=OTHER)])) == [None, 9]


def test_declarations_of_schemas_are_remembered(rows: OnlineRows) -> None:
    assert rows.declaration(SCHEMA.fingerprint) is None
    write(rows, keys_of(1), rows_of(1))
    assert RowSchema.parse(rows.declaration(SCHEMA.fingerprint) or "") == SCHEMA


def test_threads_write_and_read_at_once(rows: OnlineRows) -> None:
    def work(worker: int) -> list[int | None]:
        write(rows, keys_of(worker), rows_of(worker))
        return numbers_in(rows.read(keys_of(worker)))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == [[worker] for worker in range(40)]


FORKS = """
import os, sys, traceback
from tests.resources.feature_store.test_online_rows import keys_of, numbers_in, open_rows, rows_of, write

rows = open_rows(*sys.argv[1:])
write(rows, keys_of(1), rows_of(1))
assert numbers_in(rows.read(keys_of(1))) == [1]
child = os.fork()
if not child:
    try:
        write(rows, keys_of(2), rows_of(2))
        assert numbers_in(rows.read(keys_of(1, 2))) == [1, 2]
        os._exit(0)
    except BaseException:  # told, and the copy of the process ends here whatever it was
        traceback.print_exc()
    finally:
        os._exit(1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert numbers_in(rows.read(keys_of(1, 2))) == [1, 2]
"""
"""What forks is a process with one thread: a copy of this one might wait for ever for a thread that it lacks."""


def test_a_forked_process_has_connections_of_its_own(rows: OnlineRows, place: Place) -> None:
    command = [sys.executable, "-c", FORKS, place.address, place.namespace]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers_in(rows.read(keys_of(1, 2))) == [1, 2]


# What only SQLite does.


def test_a_database_that_is_not_there_is_an_error_that_names_it_and_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "rows.sqlite"
    with pytest.raises(OnlineStoreError, match=rf"{path} cannot be used .*HEADWATER_ONLINE_STORE names it"):
        open_rows(str(path)).read(keys_of(1))
    assert not path.exists()


def test_a_batch_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    rows = open_rows(str(tmp_path / "rows.sqlite"))
    with pytest.raises(ValueError, match="longer|shorter"):
        write(rows, keys_of(1, 2, 3), rows_of(1, 2))
    assert rows.count(VIEW) == 0
    write(rows, keys_of(1), rows_of(1))
    assert rows.count(VIEW) == 1


def test_reads_go_on_while_another_process_writes(tmp_path: Path) -> None:
    rows = open_rows(str(tmp_path / "rows.sqlite"))
    write(rows, keys_of(1), rows_of(1))
    with sqlite3.connect(tmp_path / "rows.sqlite", isolation_level=None) as other:
        other.execute("begin exclusive")
        assert numbers_in(rows.read(keys_of(1))) == [1]
        other.execute("rollback")
    other.close()


# What only Redis does.


def test_redis_forgets_what_may_not_be_read_any_more(redis_place: Place) -> None:
    import redis

    rows = redis_place.open()
    client = redis.Redis.from_url(redis_place.address)
    (key,) = keys_of(1)
    name = f"{redis_place.namespace}:".encode() + key

    def kept() -> float:
        return float(client.pttl(name)) / 1000

    # From the writing on: who reads as of an instant of the past finds what was valid then.
    rows.write(VIEW, SCHEMA, [key], rows_of(1), ttl=timedelta(hours=1))
    assert kept() == pytest.approx(86_400 + 3_600, abs=60)
    soon = datetime.now(UTC) + timedelta(hours=2)
    rows.write(VIEW, SCHEMA, [key], rows_of(2, at=soon), ttl=timedelta(hours=1))
    assert kept() == pytest.approx(86_400 + 3 * 3_600, abs=60)
    rows.write(VIEW, SCHEMA, [key], rows_of(3, at=soon))
    assert client.pttl(name) == -1
    client.close()


def test_what_redis_has_forgotten_leaves_the_list_of_keys_with_the_next_expiry(redis_place: Place) -> None:
    import redis

    rows = redis_place.open()
    write(rows, keys_of(1, 2), rows_of(1, 2), rows.begin(VIEW))
    client = redis.Redis.from_url(redis_place.address)
    client.delete(f"{redis_place.namespace}:".encode() + keys_of(1)[0])
    client.close()
    generation = rows.begin(VIEW)
    write(rows, keys_of(2), rows_of(2), generation)
    rows.expire(VIEW, generation, FOREVER)
    assert rows.count(VIEW) == 1


def test_a_connection_that_the_server_closed_is_opened_again(redis_place: Place) -> None:
    import redis

    rows = RedisRows(redis_place.address, redis_place.namespace)
    write(rows, keys_of(1), rows_of(1))
    assert numbers_in(rows.read(keys_of(1))) == [1]
    client = redis.Redis.from_url(redis_place.address)
    assert client.client_kill_filter(_id=str(rows._reader.client_id())) == 1
    client.close()
    time.sleep(0.05)
    assert numbers_in(rows.read(keys_of(1))) == [1]


def test_environments_in_one_redis_do_not_see_each_other(redis_place: Place) -> None:
    rows, others = redis_place.open(), open_rows(redis_place.address, f"{redis_place.namespace}:dev")
    write(rows, keys_of(1), rows_of(1))
    assert others.read(keys_of(1)) == [None]
    assert others.count(VIEW) == 0


def test_a_redis_that_is_not_there_is_reported_soon() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        rows = open_rows(address)
        began = time.monotonic()
        with pytest.raises(OnlineStoreError, match=rf"{address} does not answer .*HEADWATER_ONLINE_STORE names it"):
            rows.read(keys_of(1))
        assert time.monotonic() - began < SOON_SECONDS * slowness()


def test_a_redis_that_accepts_and_never_answers_is_reported_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rows = open_rows(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        began = time.monotonic()
        with pytest.raises(OnlineStoreError, match="does not answer"):
            rows.read(keys_of(1))
        assert time.monotonic() - began < SOON_SECONDS * slowness()


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    for address in ("redis://me:s3cret@127.0.0.1:6379/0", "redis://127.0.0.1:6379/0?password=s3cret"):
        with pytest.raises(OnlineStoreError, match="set REDISCLI_AUTH instead") as refused:
            open_rows(address)
        assert "s3cret" not in str(refused.value)


def test_a_password_from_the_environment_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDISCLI_AUTH", "s3cret")
    heard = []

    def refuse(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            heard.append(connection.recv(4096))
            connection.sendall(b"-WRONGPASS invalid username-password pair\r\n" * 2)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_SECONDS)
        thread = threading.Thread(target=refuse, args=(server,), daemon=True)
        thread.start()
        rows = open_rows(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        with pytest.raises(OnlineStoreError, match="REDISCLI_AUTH holds its password") as refused:
            rows.read(keys_of(1))
        thread.join()
    assert b"s3cret" in heard[0]
    shown = f"{refused.value!r} {refused.value.__cause__!r} {rows!r} {vars(rows)}"
    assert "s3cret" not in shown
