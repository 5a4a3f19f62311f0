"""What is looked at on a real lake: files, receipts, attempts and the calendar, each by what can happen to it."""

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import sqlalchemy as db

from platform_assets.asset_graph.completeness import Completeness, Storage
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import AssetStates, PairState, State
from platform_assets.partition_checker.stored import kept_in_files
from resources.lake_catalog import LakeCatalog
from resources.ledger import Input, LedgerError, Receipt
from resources.warehouse import LakeError
from tests.lake_shell import run_sql
from tests.platform_assets.partition_checker.shop import DAYS, Shop, key_of

DAY, NEXT = DAYS[3], DAYS[4]


def test_every_pair_that_was_built_is_verified_with_its_rows(built: Shop) -> None:
    assert built.wrong() == {}
    assert built.pair("sales", DAY).rows == len(built.sales[DAY])
    assert built.pair("summary", "").rows == 1


def test_a_deleted_file_makes_just_its_pair_lost_and_is_named(built: Shop) -> None:
    file = built.file("evens", DAY)
    file.unlink()
    assert built.wrong() == {f"evens@{DAY}": "lost"}
    assert built.pair("evens", DAY).reason == f"its file {file} is gone"


def test_a_truncated_file_makes_its_pair_short_and_is_named_with_its_bytes(built: Shop) -> None:
    file = built.file("sales", DAY)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert built.wrong() == {f"sales@{DAY}": "short"}
    assert built.pair("sales", DAY).reason == f"its file {file} has {len(whole) - 10:,} bytes of {len(whole):,}"


def test_a_dropped_table_makes_all_its_pairs_lost(built: Shop) -> None:
    run_sql(built.warehouse, "drop table lake.shop.evens")
    assert built.wrong() == {f"evens@{day}": "lost" for day in DAYS}
    assert built.pair("evens", DAY).reason == "recorded, but storage has nothing of it"


def test_a_pair_written_after_its_receipt_is_unrecorded_and_names_the_run(built: Shop) -> None:
    built.write("sales", DAY, built.sales[DAY], run="run-of-an-intruder")
    assert built.wrong() == {f"sales@{DAY}": "unrecorded"}
    snapshot = built.warehouse.snapshot()
    reason = f"storage was written to after its receipt, by run-of-an-intruder (snapshot {snapshot})"
    assert built.pair("sales", DAY).reason == reason


def test_a_pair_written_after_its_receipt_with_other_rows_is_short(built: Shop) -> None:
    built.write("sales", DAY, [5])
    assert built.wrong() == {f"sales@{DAY}": "short"}
    assert built.pair("sales", DAY).rows == 1
    assert built.pair("sales", DAY).reason == "its receipt says 3 rows, storage has 1"


def test_a_pair_that_was_stored_without_a_receipt_is_unrecorded(built: Shop) -> None:
    built.ledger.forget("shop/sums", [DAY])
    assert built.wrong() == {f"sums@{DAY}": "unrecorded", "weeks@2017-01-02": "outdated"}
    assert "no receipt says how it came there" in built.pair("sums", DAY).reason


def test_an_edited_receipt_vouches_for_nothing(built: Shop) -> None:
    edit = "update headwater_receipts set rows = 2 where asset = 'shop/sums' and partition = :day"
    with db.create_engine(built.environment.ledger_uri).begin() as connection:
        connection.execute(db.text(edit), {"day": DAY})
    assert built.wrong() == {f"sums@{DAY}": "unrecorded"}
    assert "changed by hand" in built.pair("sums", DAY).reason


def test_a_failed_attempt_makes_its_pair_failed_with_its_message(built: Shop) -> None:
    built.sql["evens"] = "select nothing from nowhere where partition_key in {keys}"
    run = built.build("evens", first=DAY)
    assert not run.success
    assert built.wrong() == {f"evens@{DAY}": "failed"}
    reason = built.pair("evens", DAY).reason
    assert reason.startswith(f"run {run.run_id} failed: ")
    assert "nowhere" in reason
    assert reason.endswith("; what is stored is from before")


def test_a_failed_attempt_at_a_pair_that_was_never_built_is_named_too(shop: Shop) -> None:
    del shop.sales[DAY]
    run = shop.build("sales", first=DAY)
    assert shop.pair("sales", DAY).reason == f"run {run.run_id} failed: '{DAY}'"
    assert (shop.pair("sales", DAY).state, shop.pair("sales", NEXT).state) == (State.FAILED, State.LATE)


def test_an_attempt_is_failed_once_its_run_has_ended_without_a_word_and_not_before(built: Shop) -> None:
    statuses = {"going": dg.DagsterRunStatus.STARTED, "killed": dg.DagsterRunStatus.FAILURE}
    for number, (run_id, status) in enumerate(statuses.items()):
        built.instance.add_run(dg.DagsterRun("job", run_id=run_id, status=status))
        built.ledger.begin({"shop/evens": [DAYS[number]]}, run_id)
    built.ledger.begin({"shop/evens": [DAYS[2]]}, "unheard-of")
    assert built.wrong() == {f"evens@{DAYS[1]}": "failed", f"evens@{DAYS[2]}": "failed"}
    assert "run killed ended before it was done (failure)" in built.pair("evens", DAYS[1]).reason
    assert "run unheard-of ended before it was done (deleted)" in built.pair("evens", DAYS[2]).reason


def test_other_code_makes_an_asset_outdated_and_nobody_behind_it(built: Shop) -> None:
    built.code["evens"] = "v2"
    assert built.wrong() == {f"evens@{day}": "outdated" for day in DAYS}
    assert built.pair("evens", DAY).reason == "its code has changed since it was built"


def test_pairs_before_a_declared_one_are_immutable(built: Shop) -> None:
    built.code["evens"] = "v2"
    built.declare("evens", immutable_before=DAY)
    assert built.wrong() == {f"evens@{day}": "outdated" for day in DAYS[3:]}
    built.file("evens", DAYS[0]).unlink()
    assert built.pair("evens", DAYS[0]).state is State.LOST


def test_an_input_rebuilt_with_equal_content_outdates_nobody(built: Shop) -> None:
    before = built.receipts("sales")[DAY]
    built.sales[DAY].reverse()
    assert built.build("sales", first=DAY).success
    assert built.wrong() == {}
    after = built.receipts("sales")[DAY]
    assert (after.id, after.run_id == before.run_id) == (before.id, False)


def test_an_input_rebuilt_with_other_content_outdates_what_read_it(built: Shop) -> None:
    built.sales[DAY].append(100)
    assert built.build("sales", first=DAY).success
    assert built.wrong() == {f"evens@{DAY}": "outdated"}
    assert built.pair("evens", DAY).reason == "an input has changed since it was built"
    assert built.build("evens", first=DAY).success
    assert built.wrong() == {f"sums@{DAY}": "outdated", f"sums@{NEXT}": "outdated"}


def test_a_pair_that_reads_more_or_less_than_it_did_is_outdated(built: Shop) -> None:
    built.ledger.forget("shop/evens", [DAY])
    assert built.wrong() == {f"evens@{DAY}": "unrecorded", f"sums@{DAY}": "outdated", f"sums@{NEXT}": "outdated"}


def test_rows_that_an_asset_declares_to_have_are_missed(built: Shop) -> None:
    built.sales[DAY] = [1, 3]
    assert built.build("sales", "evens", first=DAY).success
    assert built.pair("evens", DAY) == PairState("shop/evens", DAY, State.VERIFIED, 0)
    built.declare("evens", may_be_empty=False)
    assert built.pair("evens", DAY).state is State.EMPTY


@pytest.mark.parametrize(
    ("now", "late"),
    [
        (datetime(2017, 1, 3, 5, 59, tzinfo=UTC), []),
        (datetime(2017, 1, 3, 6, 0, tzinfo=UTC), DAYS[:1]),
        (datetime(2017, 1, 6, 7, 0, tzinfo=UTC), DAYS[:4]),
    ],
)
def test_a_pair_is_late_from_the_declared_time_after_the_end_of_its_partition(
    shop: Shop, now: datetime, late: list[str]
) -> None:
    inspector = replace(shop.inspector(), now=now)
    found = {pair.partition: pair.state for pair in inspector.judged({"shop/sales": None})["shop/sales"].pairs()}
    assert found == {day: State.LATE if day in late else State.MISSING for day in DAYS}


def test_an_asset_without_partitions_is_never_late(shop: Shop) -> None:
    assert shop.pair("summary", "").state is State.MISSING


def test_a_check_of_some_pairs_says_of_them_what_a_check_of_all_says(built: Shop) -> None:
    built.sales[DAYS[1]].append(8)
    assert built.build("sales", first=DAYS[1]).success
    built.file("evens", DAYS[2]).unlink()
    built.write("sums", DAYS[4], [1, 2])
    built.write("sums", DAYS[9], [1])
    built.ledger.begin({"shop/sums": [DAYS[7]]}, "unheard-of")
    inspector = built.inspector()
    everything = inspector.judged(dict.fromkeys(inspector.graph.named))
    assert len({pair.state for of_asset in everything.values() for pair in of_asset.pairs()}) == 6
    chance = random.Random(3)
    for _ in range(10):
        names = chance.sample(sorted(everything), 2)
        masks = {name: np.array([chance.random() < 0.4 for _ in everything[name].states], np.bool_) for name in names}
        some = inspector.judged(masks)
        for name, mask in masks.items():
            assert list(some[name].pairs(mask)) == list(everything[name].pairs(mask))


def test_only_the_facts_that_were_asked_for_are_gathered(built: Shop) -> None:
    inspector = built.inspector()
    day = np.array([key == DAY for key in DAYS], np.bool_)
    read = inspector.read_by({"shop/sums": day})
    assert {name: np.flatnonzero(pairs).tolist() for name, pairs in read.items()} == {"shop/evens": [2, 3]}
    facts = inspector.facts({"shop/sums": day}, read)
    assert set(facts) == {"shop/sums", "shop/evens"}
    assert np.flatnonzero(facts["shop/evens"].recorded).tolist() == [2, 3]


def test_a_lake_without_a_catalog_is_named(built: Shop) -> None:
    Path(built.environment.lake_catalog.removeprefix("sqlite:")).unlink()
    with pytest.raises(LakeError, match="catalog cannot be read"):
        built.pairs("sales")


def test_receipts_that_cannot_be_read_are_named(built: Shop) -> None:
    inspector = built.inspector()
    broken = built.environment.home / "broken.sqlite"
    broken.write_bytes(b"this is no database" * 100)
    with pytest.raises(LedgerError, match="broken.sqlite"):
        replace(inspector, ledger=inspector.ledger.__class__(uri=f"sqlite:///{broken}", environment="prod")).judged(
            {"shop/sales": None}
        )


class Stand:
    """One asset that is kept otherwise than in a table, with receipts written by hand."""

    def __init__(self, shop: Shop, storage: Storage, location: str | None = "shop") -> None:
        self.shop = shop
        node = Node(key_of("model"), location, None, {}, code_version="v1", completeness=Completeness(storage=storage))
        self.graph = Graph.of([node])

    def record(self, **kept: object) -> None:
        facts: Mapping[str, object] = {"rows": None, "checksum": "c", "schema": "", **kept}
        self.shop.ledger.record([Receipt("shop/model", "", "v1", (), environment="prod", run_id="run", **facts)])  # type: ignore[arg-type]

    @property
    def judged(self) -> AssetStates:
        shop = self.shop
        inspector = Inspector(self.graph, shop.ledger, LakeCatalog(shop.warehouse), shop.instance)
        return inspector.judged({"shop/model": None})["shop/model"]

    @property
    def pair(self) -> PairState:
        return self.judged.pair(0)


def test_files_outside_the_lake_are_looked_at_by_name_and_size(shop: Shop, tmp_path: Path) -> None:
    stand = Stand(shop, "files")
    paths = [tmp_path / "model.txt", tmp_path / "weights.bin"]
    for path in paths:
        path.write_bytes(b"x" * 2_000)
    assert stand.pair.state is State.MISSING
    stand.record(**vars(kept_in_files(paths)) | {"rows": None})
    assert stand.pair == PairState("shop/model", "", State.VERIFIED, None)
    paths[1].write_bytes(b"x" * 1_999)
    assert (stand.pair.state, stand.pair.reason) == (State.SHORT, f"its file {paths[1]} has 1,999 bytes of 2,000")
    paths[1].unlink()
    assert (stand.pair.state, stand.pair.reason) == (State.LOST, f"its file {paths[1]} is gone")


def test_of_several_damaged_files_of_a_pair_the_one_that_is_gone_counts(shop: Shop, tmp_path: Path) -> None:
    stand = Stand(shop, "files")
    paths = [tmp_path / "model.txt", tmp_path / "weights.bin"]
    for path in paths:
        path.write_bytes(b"xx")
    stand.record(**vars(kept_in_files(paths)) | {"rows": None})
    paths[0].unlink()
    paths[1].write_bytes(b"x")
    assert stand.pair.state is State.LOST


def test_a_view_is_there_for_a_pair_that_was_recorded_as_long_as_it_exists(shop: Shop) -> None:
    stand = Stand(shop, "view")
    run_sql(shop.warehouse, "create schema lake.shop", "create view lake.shop.model as select 1 as n")
    assert stand.pair.state is State.MISSING
    stand.record()
    assert stand.pair == PairState("shop/model", "", State.VERIFIED, None)
    run_sql(shop.warehouse, "drop view lake.shop.model")
    assert stand.pair.state is State.LOST


def test_a_delivery_is_known_by_the_data_version_that_was_recorded_of_it(shop: Shop) -> None:
    stand = Stand(shop, "upstream", location=None)
    assert (stand.pair.state, stand.pair.reason) == (State.MISSING, "its upstream system has not delivered it")
    event = dg.AssetMaterialization(key_of("model"), tags={"dagster/data_version": "5-90-ab"})
    shop.instance.report_runless_asset_event(event)
    assert stand.pair.state is State.VERIFIED
    judged = stand.judged
    assert judged.facts.contents == ["5-90-ab"]
    assert tuple(judged.facts.marks[0].tolist()) == Input("shop/model", "", "5-90-ab", "5-90-ab").mark
