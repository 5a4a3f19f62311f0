"""A broken store is named with the way back; receipts that lake and event log prove are restored, and no others."""

import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.partition_checker import restore_command
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.restoring import restore
from platform_assets.partition_checker.states import State
from resources import database
from resources.database import damage_of
from resources.environment import Environment
from resources.lake_catalog import LakeCatalog
from resources.ledger import Ledger, LedgerError, Receipt
from resources.warehouse import Commit, LakeError, TableName, Warehouse
from tests.platform_assets.partition_checker.shop import CALENDARS, DAYS, Shop


@pytest.fixture
def recorded(shop: Shop) -> Shop:
    """A shop of which everything is built, with the events of it."""
    shop.build_all()
    return shop


def ledger_file(shop: Shop) -> Path:
    return shop.environment.home / "lake" / "ledger.sqlite"


def lose_receipts(shop: Shop) -> None:
    for name in CALENDARS:
        shop.ledger.erase(f"shop/{name}")


def test_all_receipts_of_an_unchanged_lake_are_restored_as_they_were(recorded: Shop) -> None:
    before = recorded.ids()
    lose_receipts(recorded)
    assert State.VERIFIED not in recorded.states("sums")
    done = restore(recorded.inspector())
    assert done.named == len(done.pairs) == sum(map(len, before.values()))
    assert recorded.ids() == before
    assert recorded.wrong() == {}
    assert restore(recorded.inspector()).pairs == ()


def test_what_was_changed_since_is_not_restored_and_is_named(recorded: Shop) -> None:
    lose_receipts(recorded)
    recorded.write("evens", DAYS[4], [2, 4])
    done = restore(recorded.inspector())
    left = set(recorded.wrong())
    assert ("shop/evens", DAYS[4]) not in done.pairs
    assert {f"evens@{DAYS[4]}", f"sums@{DAYS[4]}", f"sums@{DAYS[5]}", "weeks@2017-01-02", "summary@"} == left
    assert recorded.pair("evens", DAYS[4]).state is State.UNRECORDED
    for names in (["evens", "sums"], ["weeks"], ["summary"]):
        assert recorded.build(*names).success
    assert recorded.wrong() == {}


def test_a_file_that_cannot_be_read_spoils_no_other_receipt(recorded: Shop) -> None:
    lose_receipts(recorded)
    path = recorded.file("evens", DAYS[4])
    path.write_bytes(b"x" * path.stat().st_size)
    restored = {key for name, key in restore(recorded.inspector()).pairs if name == "shop/evens"}
    assert restored == set(DAYS) - {DAYS[4]}


def test_receipts_that_are_there_stay(recorded: Shop) -> None:
    recorded.ledger.erase("shop/sums")
    before = {name: recorded.receipts(name) for name in ("sales", "evens", "weeks")}
    restore(recorded.inspector())
    assert {name: recorded.receipts(name) for name in before} == before
    assert recorded.wrong() == {}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda content: b"this is no database" * (len(content) // 19),
    "its head": lambda content: bytes(100) + content[100:],
    "half of it": lambda content: content[: len(content) // 2],
    "a page in the middle": lambda content: (
        content[:8192] + bytes(b ^ 0xFF for b in content[8192:12288]) + content[12288:]
    ),
}


@pytest.fixture
def sound(environment: Environment) -> Path:
    """The file of a ledger that holds a hundred receipts."""
    ledger = Ledger.of(environment)
    ledger.record([Receipt("a/b", str(n), "v", (), 1, "c" * 40, "s" * 200, "prod", "run") for n in range(100)])
    file = environment.home / "lake" / "ledger.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    return file


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_ledger_is_named_with_the_way_back(
    environment: Environment, sound: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    broken = Environment.of({"HEADWATER_HOME": str(tmp_path / "broken")})
    (broken.home / "lake").mkdir(parents=True)
    (broken.home / "lake" / "ledger.sqlite").write_bytes(damage(sound.read_bytes()))
    with pytest.raises(LedgerError, match=r"ledger\.sqlite are damaged .*put back a copy.*headwater restore-ledger"):
        Ledger.of(broken).current("a/b")


def test_a_ledger_that_is_held_is_not_called_damaged(sound: Path) -> None:
    assert damage_of(sound) is None
    assert damage_of(sound.with_name("nothing")) is None


def test_a_damaged_ledger_is_set_aside_whole(sound: Path) -> None:
    sound.with_name("ledger.sqlite-wal").write_bytes(b"log")
    aside = restore_command._set_aside(sound)
    left = {path.name for path in sound.parent.iterdir() if path.name.startswith("ledger.sqlite")}
    assert left >= {aside.name, f"{aside.name}-wal"}
    assert all(name.startswith(aside.name) for name in left)


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_a_catalog_with_a_broken_page_answers_or_names_itself(
    extensions: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    environment = Environment.of({"HEADWATER_HOME": str(tmp_path_factory.mktemp("broken"))})
    environment.extensions.symlink_to(extensions)
    warehouse, table = Warehouse.of(environment), TableName("a", "b")
    warehouse.replace_partitions(table, ["x"], pa.table({"partition_key": ["x"]}), Commit("run", "a/b"))
    file = Path(environment.lake_catalog.removeprefix("sqlite:"))
    content = bytearray(file.read_bytes())
    page = data.draw(st.integers(0, len(content) // 4096 - 1))
    for at in range(page * 4096, page * 4096 + 300):
        content[at] ^= 0xFF
    file.write_bytes(content)
    said = ""
    try:
        LakeCatalog(warehouse).files()
        warehouse.tables()
    except LakeError as error:
        said = str(error)
    assert not said or (f"the lake's catalog {file} is damaged" in said and "put back a copy" in said)


def test_the_command_restores_into_a_new_ledger(recorded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_command, "open_instance", lambda _: nullcontext(recorded.instance))
    graph = recorded.graph
    monkeypatch.setattr(PartitionChecker, "graph", lambda _: graph)
    # The command is a process of its own, which has not opened the ledger yet.
    database._engine(recorded.ledger.uri).dispose()
    for known in (database._engine, database._create):
        known.cache_clear()
    for end in ("-wal", "-shm"):
        ledger_file(recorded).with_name(f"ledger.sqlite{end}").unlink(missing_ok=True)
    ledger_file(recorded).write_bytes(b"no database" * 1000)
    done = CliRunner().invoke(restore_command.restore_ledger)
    assert done.exit_code == 0, done.output
    assert "the damaged ledger is now" in done.output
    assert "restored 45 of 45 lost receipts" in done.output
    assert recorded.wrong() == {}
