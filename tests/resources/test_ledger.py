"""Receipts: what makes two equal, what the ledger keeps, and what it notices about an edit by hand."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as db
from hypothesis import given
from hypothesis import strategies as st

from resources.environment import Environment
from resources.ledger import (
    Attempt,
    Input,
    Ledger,
    LedgerError,
    Receipt,
    Recovery,
    StoredFile,
    digest,
    mark_of,
    schema_columns,
    schema_text,
    sum_of,
)
from tests.patience import PATIENCE_SECONDS, SOON_SECONDS, slowness

NAME = "shop/product_days"
RAW = Input("shop/raw_sales", "2017-01-01", "id-of-raw", "content-of-raw")
DAY = Receipt(
    asset=NAME,
    partition="2017-01-01",
    code_version="v1",
    inputs=(RAW,),
    rows=3,
    checksum="3:ff",
    schema=schema_text({"n": "BIGINT"}),
    environment="prod",
    run_id="run-1",
    snapshot=7,
)
PLAN = Recovery("plan-1", 100.0, {NAME: ["2017-01-01"]}, {NAME: ["2017-01-01"]})


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, environment: Environment) -> Ledger:
    if request.param == "sqlite":
        return Ledger.of(environment)
    return Ledger(uri=request.getfixturevalue("postgres"), environment="prod")


def on(day: int) -> Receipt:
    return replace(DAY, partition=f"2017-01-{day:02}")


def edit(ledger: Ledger, statement: str) -> None:
    """Change the database by hand."""
    engine = db.create_engine(ledger.uri.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        assert connection.execute(db.text(statement)).rowcount > 0
    engine.dispose()


def test_equal_work_has_an_equal_id_whenever_and_wherever_it_was_done() -> None:
    again = replace(DAY, run_id="run-2", snapshot=9, recorded_at=0.0, environment="dev-a", reused=True)
    assert again.id == DAY.id
    assert again.content == DAY.content


@pytest.mark.parametrize(
    ("change", "same_content"),
    [
        ({"asset": "shop/other"}, True),
        ({"partition": "2017-01-02"}, True),
        ({"code_version": "v2"}, True),
        ({"inputs": (replace(RAW, id="another"),)}, True),
        ({"inputs": ()}, True),
        ({"rows": 4}, False),
        ({"checksum": "3:fe"}, False),
        ({"schema": "s2"}, False),
    ],
)
def test_an_id_says_everything_about_the_data_and_its_ancestry(change: dict[str, object], same_content: bool) -> None:
    changed = replace(DAY, **change)  # type: ignore[arg-type]
    assert changed.id != DAY.id
    assert (changed.content == DAY.content) is same_content


def test_the_order_of_inputs_does_not_count() -> None:
    other = Input("shop/raw_prices", "2017-01-01", "p", "q")
    one, same = replace(DAY, inputs=(RAW, other)), replace(DAY, inputs=(other, RAW))
    assert one.id == same.id
    assert one.inputs_mark == same.inputs_mark
    assert DAY.inputs_mark == mark_of("shop/raw_sales", "2017-01-01", "content-of-raw")


def test_readers_compare_the_older_content_of_what_only_gained_columns() -> None:
    wider = replace(DAY, schema=schema_text({"m": "BIGINT", "n": "BIGINT"}), extends=DAY.content)
    assert (DAY.read_as, wider.read_as) == (DAY.content, DAY.content)
    assert wider.content != DAY.content


def test_the_order_of_columns_does_not_count_and_a_schema_reads_back() -> None:
    columns = {"b": "VARCHAR", "a": "DECIMAL(18,2)"}
    assert schema_text(columns) == schema_text(dict(sorted(columns.items())))
    assert schema_columns(schema_text(columns)) == columns
    assert schema_columns("") == {}


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.text(max_size=3)), max_size=8), st.randoms())
def test_marks_add_up_in_any_order_and_grouping(pairs: list[tuple[str, str, str]], chance) -> None:  # type: ignore[no-untyped-def]
    marks = [mark_of(*pair) for pair in pairs]
    shuffled = chance.sample(marks, len(marks))
    cut = chance.randint(0, len(marks))
    assert sum_of(shuffled) == sum_of(marks)
    assert sum_of([sum_of(marks[:cut]), sum_of(marks[cut:])]) == sum_of(marks)
    first = sum(mark[0] for mark in marks)
    assert (sum_of(marks)[0] - first) % 2**64 == 0
    assert all(-(2**63) <= number < 2**63 for number in sum_of(marks))


def test_a_mark_tells_asset_partition_and_content_apart() -> None:
    pairs = [("a/b", "c", "d"), ("a/b", "d", "c"), ("a/bc", "", "d"), ("a/b", "cd", "")]
    assert len({mark_of(*pair) for pair in pairs}) == len(pairs)
    assert sum_of([mark_of(*pairs[0])]) == mark_of(*pairs[0])
    assert digest("a", 1) != digest("a1")


def test_a_stored_receipt_has_the_marks_of_its_content_and_its_inputs(ledger: Ledger) -> None:
    other = Input("shop/raw_prices", "2017-01-01", "p", "q")
    extended = replace(on(2), extends="older", inputs=(RAW, other))
    ledger.record([DAY, extended])
    found = ledger.standings()[NAME]
    assert list(found.partitions) == ["2017-01-01", "2017-01-02"]
    assert list(map(tuple, found.marks.tolist())) == [
        mark_of(NAME, "2017-01-01", DAY.content),
        mark_of(NAME, "2017-01-02", "older"),
    ]
    assert list(map(tuple, found.inputs_marks.tolist())) == [RAW.mark, sum_of([RAW.mark, other.mark])]
    assert list(found.read_as) == [DAY.content, "older"]
    assert not found.forged.any()


def test_the_newest_receipt_of_a_pair_is_the_current_one_and_older_ones_stay(ledger: Ledger) -> None:
    rebuilt = replace(DAY, rows=4, run_id="run-2")
    ledger.record([DAY, on(2)])
    ledger.record([rebuilt])
    assert ledger.current(NAME) == {"2017-01-01": rebuilt, "2017-01-02": on(2)}
    assert list(ledger.current(NAME, ["2017-01-02", "2017-01-03"])) == ["2017-01-02"]
    assert ledger.history(NAME, "2017-01-01") == [rebuilt, DAY]
    standings = ledger.standings()[NAME]
    assert (standings.ids[0], standings.rows[0], standings.snapshots[0]) == (rebuilt.id, 4, 7)
    assert ledger.standings(["shop/other"]) == {}


def test_a_receipt_comes_back_as_it_was_recorded(ledger: Ledger) -> None:
    files = (StoredFile("/models/a b.txt", 2**40), StoredFile("/models/ü.txt", 0))
    kept = replace(DAY, rows=None, snapshot=None, files=files, extends="older", reused=True)
    ledger.record([kept])
    assert ledger.current(NAME) == {"2017-01-01": kept}
    standings = ledger.standings()[NAME]
    assert (standings.rows[0], standings.snapshots[0]) == (None, None)
    assert ledger.stored_files(standings.files[0]) == files
    assert not standings.forged.any()


def test_a_span_limits_what_is_read_to_the_keys_between_its_ends(ledger: Ledger) -> None:
    ledger.record([on(day) for day in range(1, 10)])
    ledger.record([replace(DAY, asset="shop/other"), replace(DAY, asset="shop/whole", partition="")])
    found = ledger.standings([NAME, "shop/other", "shop/whole"], {NAME: ("2017-01-03", "2017-01-05")})
    assert list(found[NAME].partitions) == ["2017-01-03", "2017-01-04", "2017-01-05"]
    assert list(found["shop/other"].partitions) == ["2017-01-01"]
    assert list(found["shop/whole"].partitions) == [""]
    assert ledger.standings([NAME], {NAME: ("", "")}) == {}


def test_keys_sort_by_their_characters_in_every_database(ledger: Ledger) -> None:
    keys = ["B", "a", "-", "Z", "_", "é", "10", "9"]
    ledger.record([replace(DAY, partition=key) for key in keys])
    assert list(ledger.standings()[NAME].partitions) == sorted(keys)
    assert list(ledger.standings([NAME], {NAME: ("10", "Z")})[NAME].partitions) == ["10", "9", "B", "Z"]


SEALED_EDITS = {
    "id": "'00'",
    "read_as": "'00'",
    "code_version": "'v2'",
    "inputs_id": "'00'",
    "rows": "2",
    "checksum": "'3:fe'",
    "schema": "'{}'",
    "extends": "'older'",
    "snapshot": "9",
    "files": "'[[\"/x\", 1]]'",
    "mark_1": "mark_1 + 1",
    "mark_2": "0",
    "inputs_mark_1": "0",
    "inputs_mark_2": "inputs_mark_2 - 1",
    "run_id": "'another'",
    "seal": "seal + 1",
    "partition": "'2017-02-02'",
}


def test_an_edit_of_any_sealed_column_by_hand_is_noticed(ledger: Ledger) -> None:
    untouched = "untouched"
    ledger.record([replace(DAY, partition=key) for key in (*SEALED_EDITS, untouched)])
    assert not ledger.standings()[NAME].forged.any()
    for column, value in SEALED_EDITS.items():
        edit(ledger, f"update headwater_receipts set {column} = {value} where partition = '{column}'")
    found = ledger.standings()[NAME]
    genuine = [key for key, is_forged in zip(found.partitions, found.forged.tolist(), strict=True) if not is_forged]
    assert genuine == [untouched]


def test_a_receipt_given_to_another_asset_by_hand_is_noticed(ledger: Ledger) -> None:
    ledger.record([DAY])
    edit(ledger, "update headwater_receipts set asset = 'shop/other'")
    assert ledger.standings()["shop/other"].forged.tolist() == [True]


def test_a_forgotten_pair_has_no_current_receipt_and_keeps_its_history(ledger: Ledger) -> None:
    ledger.record([DAY])
    ledger.forget(NAME, ["2017-01-01"])
    assert ledger.current(NAME) == {}
    assert ledger.history(NAME, "2017-01-01") == [DAY]


def test_an_attempt_stands_until_a_receipt_comes_of_it(ledger: Ledger) -> None:
    ledger.begin({NAME: ["2017-01-01", "2017-01-02"], "shop/whole": [""]}, "run-1")
    assert Attempt(NAME, "2017-01-01", "run-1", "") in ledger.attempts()
    ledger.record([DAY])
    assert {(tried.asset, tried.partition) for tried in ledger.attempts()} == {(NAME, "2017-01-02"), ("shop/whole", "")}
    assert [tried.asset for tried in ledger.attempts(["shop/whole"])] == ["shop/whole"]


def test_a_failed_run_leaves_its_error_on_what_it_did_not_record(ledger: Ledger) -> None:
    ledger.begin({NAME: ["2017-01-01", "2017-01-02"]}, "run-1")
    ledger.record([DAY])
    ledger.begin({NAME: ["2017-01-03"]}, "run-2")
    ledger.failed("run-1", "division by zero", [NAME])
    assert sorted((tried.partition, tried.error) for tried in ledger.attempts()) == [
        ("2017-01-02", "division by zero"),
        ("2017-01-03", ""),
    ]


def test_why_a_single_pair_was_refused_is_not_lost_in_what_is_said_of_the_run(ledger: Ledger) -> None:
    ledger.begin({NAME: ["2017-01-01", "2017-01-02"], "shop/other": ["2017-01-01"]}, "run-1")
    ledger.refused("run-1", NAME, {"2017-01-02": "file a.csv: line 7"})
    ledger.failed("run-1", "1 partition refused", [NAME])
    ledger.failed("run-1", "disk full", ["shop/other"])
    ledger.refused("run-2", NAME, {"2017-01-01": "not mine"})
    assert {(tried.asset, tried.partition): tried.error for tried in ledger.attempts()} == {
        (NAME, "2017-01-01"): "1 partition refused",
        (NAME, "2017-01-02"): "file a.csv: line 7",
        ("shop/other", "2017-01-01"): "disk full",
    }


def test_a_later_attempt_takes_the_place_of_an_earlier_one(ledger: Ledger) -> None:
    ledger.begin({NAME: ["2017-01-01"]}, "run-1")
    ledger.failed("run-1", "division by zero", [NAME])
    ledger.begin({NAME: ["2017-01-01"]}, "run-2")
    ledger.failed("run-1", "again", [NAME])
    assert ledger.attempts() == [Attempt(NAME, "2017-01-01", "run-2", "")]
    ledger.begin({NAME: []}, "run-3")
    ledger.begin({}, "run-3")
    assert len(ledger.attempts()) == 1


def test_a_launched_plan_is_remembered_with_its_backfills(ledger: Ledger) -> None:
    newer = replace(PLAN, plan_id="plan-2", planned_at=200.0)
    with ledger.launching() as launches:
        assert launches.all() == []
        launches.add(PLAN, "one")
    with ledger.launching() as launches:
        launches.add(PLAN, "two")
        launches.add(newer, "three")
        assert [known.plan_id for known in launches.all()] == ["plan-2", "plan-1"]
    assert ledger.recovery("plan-1") == replace(PLAN, backfills=("one", "two"))
    assert ledger.recovery("plan-3") is None
    assert Ledger(uri=ledger.uri, environment="dev-a").recovery("plan-1") is None


def test_a_launch_that_breaks_off_is_found_begun_and_ends_as_it_turns_out(ledger: Ledger) -> None:
    def breaks_off() -> None:
        with ledger.launching() as launches:
            launches.begin(PLAN)
            raise OSError("the web server is gone")

    with pytest.raises(OSError, match="gone"):
        breaks_off()
    # Whoever was launched finds it, and the next launcher what is to be found out.
    assert ledger.recovery("plan-1") == replace(PLAN, is_begun=True)
    with ledger.launching() as launches:
        launches.drop("plan-1")
        assert launches.all() == []
        launches.begin(PLAN)
        launches.add(PLAN, "one")
    with pytest.raises(OSError, match="gone"):
        breaks_off()
    assert ledger.recovery("plan-1") == replace(PLAN, backfills=("one",), is_begun=True)
    with ledger.launching() as launches:
        launches.drop("plan-1")
    assert ledger.recovery("plan-1") == replace(PLAN, backfills=("one",))


def test_receipts_are_written_while_a_recovery_is_being_launched(ledger: Ledger) -> None:
    with ledger.launching() as launches:
        launches.begin(PLAN)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ledger.begin, {NAME: ["2017-01-01"]}, "run-1").result(SOON_SECONDS * slowness())
        launches.add(PLAN, "one")
    assert [attempt.run_id for attempt in ledger.attempts()] == ["run-1"]


def test_of_two_that_launch_at_the_same_time_the_second_sees_the_first(ledger: Ledger) -> None:
    together = threading.Barrier(2, timeout=PATIENCE_SECONDS)

    def launch(plan: Recovery) -> list[str]:
        together.wait()
        with ledger.launching() as launches:
            before = [known.plan_id for known in launches.all()]
            # The other one has begun by now, and waits.
            time.sleep(0.2)
            launches.add(plan, "backfill")
        return before

    plans = [PLAN, replace(PLAN, plan_id="plan-2")]
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(launch, plans))
    assert sorted(map(len, seen)) == [0, 1]


def test_environments_share_a_database_and_nothing_else(ledger: Ledger) -> None:
    ledger.record([DAY])
    ledger.begin({NAME: ["2017-01-02"]}, "run-1")
    other = Ledger(uri=ledger.uri, environment="dev-a")
    other.failed("run-1", "not mine", [NAME])
    other.begin({NAME: ["2017-01-02"]}, "run-9")
    assert (other.standings(), other.current(NAME), other.history(NAME, "2017-01-01")) == ({}, {}, [])
    assert ledger.attempts() == [Attempt(NAME, "2017-01-02", "run-1", "")]


def test_writers_at_the_same_time_lose_nothing(ledger: Ledger) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            ledger.begin({NAME: [f"{writer}-{number}"]}, f"run-{writer}")
            ledger.record([replace(DAY, partition=f"{writer}-{number}")])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(ledger.current(NAME)) == 40
    assert ledger.attempts() == []


def side_by_side(work: Callable[[str, str], None]) -> None:
    """Let two runs do the same work at the same time, several times over."""
    together = threading.Barrier(2, timeout=PATIENCE_SECONDS)

    def repeat(run: str) -> None:
        for number in range(15):
            together.wait()
            work(run, f"2017-01-{number + 1:02}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(repeat, ["run-1", "run-2"]))


def test_two_runs_may_begin_the_same_pair_at_the_same_time(ledger: Ledger) -> None:
    side_by_side(lambda run, key: ledger.begin({NAME: [key]}, run))
    assert len(ledger.attempts()) == 15


def test_two_runs_that_record_the_same_pair_at_the_same_time_leave_one_current_receipt(ledger: Ledger) -> None:
    side_by_side(lambda run, key: ledger.record([replace(DAY, partition=key, run_id=run)]))
    found = ledger.standings()[NAME].partitions
    assert len(found) == len(set(found)) == 15


def test_many_pairs_are_recorded_together(ledger: Ledger) -> None:
    many = [replace(DAY, partition=f"{number:05}") for number in range(2000)]
    ledger.begin({NAME: [receipt.partition for receipt in many]}, "run-1")
    ledger.record(many)
    ledger.record(many)
    assert len(ledger.standings()[NAME].ids) == 2000
    assert ledger.attempts() == []


def test_a_ledger_that_cannot_be_read_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(LedgerError, match="ledger.sqlite"):
        Ledger(uri=f"sqlite:///{path}", environment="prod").standings()
