"""The deep check reads what is stored; adopting vouches for it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as db

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.partition_checker.deep import adopt, read_again
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import PairState, State
from platform_assets.partition_checker.stored import kept_in_files
from resources.lake_catalog import LakeCatalog
from resources.ledger import Receipt
from tests.platform_assets.partition_checker.shop import DAYS, Shop, key_of

DAY, NEXT = DAYS[3], DAYS[4]


def deep(inspector: Inspector, name: str, *days: str) -> dict[str, PairState]:
    """The pairs of an asset, all or some, after their rows were read; progress must add up to them."""
    told: list[int] = []
    judged = inspector.judged({f"shop/{name}": None})[f"shop/{name}"]
    pairs = [pair for pair in judged.pairs() if not days or pair.partition in days]
    found = read_again(inspector, inspector.graph.named[f"shop/{name}"], pairs, told.append)
    assert sum(told) == len(found) == len(pairs)
    return {pair.partition: pair for pair in found}


def wrong(found: dict[str, PairState]) -> dict[str, State]:
    return {key: pair.state for key, pair in found.items() if pair.state is not State.VERIFIED}


def adopted(shop: Shop, **wanted: Sequence[str]) -> list[tuple[str, str]]:
    inspector = shop.inspector()
    pairs = {f"shop/{name}": keys for name, keys in wanted.items()}
    found = adopt(inspector, inspector.judged(dict.fromkeys(pairs)), pairs, "by hand")
    return [(name.removeprefix("shop/"), key) for name, key in found]


@pytest.mark.parametrize("name", ["sales", "sums", "weeks", "summary"])
def test_what_is_stored_as_recorded_is_verified_by_its_rows(built: Shop, name: str) -> None:
    assert wrong(deep(built.inspector(), name)) == {}


def test_bytes_that_changed_in_place_are_found_by_reading_only(built: Shop) -> None:
    file = built.file("evens", DAY)
    content = bytearray(file.read_bytes())
    content[4:40] = bytes(36)
    file.write_bytes(content)
    assert built.wrong() == {}
    found = deep(built.inspector(), "evens", DAYS[2], DAY, NEXT)
    assert wrong(found) == {DAY: State.SHORT}
    assert found[DAY].reason == f"its file {file} has other bytes than were written"


def test_a_file_that_cannot_be_read_at_all_spoils_no_other_pair(built: Shop) -> None:
    file = built.file("sales", DAY)
    file.write_bytes(bytes(len(file.read_bytes())))
    found = deep(built.inspector(), "sales", DAYS[2], DAY, NEXT)
    assert wrong(found) == {DAY: State.SHORT}
    assert found[DAY].reason == f"its file {file} has other bytes than were written"


def test_a_file_overwritten_with_that_of_another_day_is_found_by_reading(built: Shop) -> None:
    one, other = built.file("sales", DAY).read_bytes(), built.file("sales", NEXT).read_bytes()
    assert len(one) == len(other)
    built.file("sales", DAY).write_bytes(other)
    assert built.wrong() == {}
    found = deep(built.inspector(), "sales")
    assert wrong(found) == {DAY: State.SHORT}
    assert found[DAY].reason == f"its file {built.file('sales', DAY)} has other bytes than were written"


def test_what_is_not_stored_as_recorded_is_not_read(built: Shop) -> None:
    built.file("evens", DAY).unlink()
    assert wrong(deep(built.inspector(), "evens")) == {DAY: State.LOST}


def test_a_column_that_the_table_gained_since_does_not_count(built: Shop) -> None:
    built.sql["evens"] = "select partition_key, n, 2 * n as twice from lake.shop.sales where partition_key in {keys}"
    assert built.build("evens", first=DAY).success
    assert wrong(deep(built.inspector(), "evens")) == {}


def test_files_outside_the_lake_are_read_too(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "model.txt"
    file.write_text("tree")
    node = Node(key_of("model"), "shop", None, {}, completeness=Completeness(storage="files"))
    inspector = Inspector(Graph.of([node]), shop.ledger, LakeCatalog(shop.warehouse), shop.instance)
    kept = vars(kept_in_files([file]))
    shop.ledger.record([Receipt("shop/model", "", "", (), environment="prod", run_id="run", **kept)])
    assert wrong(deep(inspector, "model")) == {}
    file.write_text("treE")
    assert wrong(deep(inspector, "model")) == {"": State.SHORT}


def test_an_adopted_pair_is_verified_as_built_from_what_is_there(built: Shop) -> None:
    before = built.receipts("evens")[DAY]
    built.ledger.forget("shop/evens", [DAY, NEXT])
    assert adopted(built, evens=[DAY]) == [("evens", DAY)]
    after = built.receipts("evens")[DAY]
    assert (after.id, after.inputs, after.run_id) == (before.id, before.inputs, "by hand")
    assert built.wrong() == {f"evens@{NEXT}": "unrecorded", f"sums@{NEXT}": "outdated", f"sums@{DAYS[5]}": "outdated"}


def test_a_pair_written_by_somebody_can_be_adopted_and_what_read_it_is_outdated(built: Shop) -> None:
    built.write("evens", DAY, [2, 4, 6])
    assert adopted(built, evens=DAYS) == []
    built.write("evens", DAY, [100])
    assert built.wrong() == {f"evens@{DAY}": "unrecorded"}
    assert adopted(built, evens=DAYS, sums=DAYS) == [("evens", DAY)]
    assert built.wrong() == {f"sums@{DAY}": "outdated", f"sums@{NEXT}": "outdated"}


def test_an_edited_receipt_is_replaced_by_adopting_what_storage_holds(built: Shop) -> None:
    genuine = built.receipts("sums")[DAY]
    with db.create_engine(built.environment.ledger_uri).begin() as connection:
        connection.execute(db.text("update headwater_receipts set checksum = 'x' where asset = 'shop/sums'"))
    assert adopted(built, sums=[DAY]) == [("sums", DAY)]
    assert built.receipts("sums")[DAY].id == genuine.id
    assert built.pair("sums", DAY).state is State.VERIFIED


def test_a_pair_whose_upstream_has_no_receipt_is_not_adopted(built: Shop) -> None:
    built.ledger.forget("shop/sales", [DAY])
    built.ledger.forget("shop/evens", [DAY, NEXT])
    assert adopted(built, evens=DAYS) == [("evens", NEXT)]
    assert built.pair("evens", DAY).state is State.UNRECORDED


def test_upstream_pairs_that_are_adopted_first_count(built: Shop) -> None:
    built.ledger.forget("shop/sales", [DAY])
    built.ledger.forget("shop/evens", [DAY])
    assert adopted(built, sales=DAYS, evens=DAYS) == [("sales", DAY), ("evens", DAY)]
    assert built.wrong() == {}


def test_nothing_but_unrecorded_pairs_is_adopted(built: Shop) -> None:
    built.file("sums", DAY).unlink()
    built.code["sums"] = "v2"
    assert adopted(built, sums=DAYS) == []


def test_inputs_that_were_edited_are_found_by_computing_their_digest_anew(built: Shop) -> None:
    edit = "update headwater_receipts set inputs = '[]' where asset = 'shop/evens' and partition = :day"
    with db.create_engine(built.environment.ledger_uri).begin() as connection:
        connection.execute(db.text(edit), {"day": DAY})
    assert wrong(deep(built.inspector(), "evens")) == {DAY: State.UNRECORDED}
