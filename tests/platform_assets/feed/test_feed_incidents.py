"""Every incident does what its sentence says, and feeding again puts things right."""

import gzip
import zlib
from pathlib import Path

import duckdb
import pytest

from platform_assets.feed.delivery import deliver
from platform_assets.feed.incidents import INCIDENTS, IncidentError

DAY = "2017-06-05"
HOUR = "2017-12-10-22:00"
TRANSACTIONS = "commerce.transactions"
READS = "webtoon.reads"


def landed(zone: Path, source: str = TRANSACTIONS, partition: str = DAY) -> Path:
    (file,) = (zone / source.replace(".", "/") / f"dt={partition}").glob("part-*")
    return file


def happen(
    zone: Path, incident: str | None, column: str | None = None, source: str = TRANSACTIONS
) -> duckdb.DuckDBPyRelation:
    partition = DAY if source == TRANSACTIONS else HOUR
    deliver(zone, {source: [partition]}, incident=incident, column=column, scale=0.1)
    reader = "read_parquet" if source == TRANSACTIONS else "read_json"
    return duckdb.sql(f"FROM {reader}('{landed(zone, source, partition)}', hive_partitioning = false)")


@pytest.fixture
def right(tmp_path) -> duckdb.DuckDBPyRelation:
    return happen(tmp_path / "right", None)


@pytest.mark.parametrize("incident", INCIDENTS)
def test_fed_twice_an_incident_changes_nothing_and_without_it_all_is_right(tmp_path, incident):
    selection = {READS: [HOUR]}
    deliver(tmp_path, selection, scale=0.02)
    right = landed(tmp_path, READS, HOUR).read_bytes()
    deliver(tmp_path, selection, scale=0.02, incident=incident)
    (again,) = deliver(tmp_path, selection, scale=0.02, incident=incident)
    assert again.outcome in ("unchanged", "withheld")
    deliver(tmp_path, selection, scale=0.02)
    file = landed(tmp_path, READS, HOUR)
    assert file.read_bytes() == right
    assert (file.parent / "_SUCCESS").exists()


@pytest.mark.parametrize("incident", INCIDENTS.values())
def test_an_incident_is_described_in_one_sentence(incident):
    assert incident.__doc__.count(".") == 1
    assert incident.__doc__.endswith(".")


def test_missing_delivers_nothing_and_leaves_what_was_there(tmp_path):
    (nothing,) = deliver(tmp_path, {TRANSACTIONS: [DAY]}, incident="missing")
    assert nothing.outcome == "withheld"
    assert not (tmp_path / "commerce" / "transactions").exists()


def test_late_leaves_the_marker_out_until_a_later_feed(tmp_path):
    happen(tmp_path, "late")
    assert not (landed(tmp_path).parent / "_SUCCESS").exists()
    (completed,) = deliver(tmp_path, {TRANSACTIONS: [DAY]})
    assert completed.outcome == "delivered"
    assert (landed(tmp_path).parent / "_SUCCESS").exists()


def test_truncated_cuts_the_file_and_marks_it_complete(tmp_path, right):
    deliver(tmp_path, {TRANSACTIONS: [DAY], READS: [HOUR]}, incident="truncated", scale=0.1)
    assert landed(tmp_path).stat().st_size == landed(tmp_path / "right").stat().st_size // 2
    assert (landed(tmp_path).parent / "_SUCCESS").exists()
    with pytest.raises(duckdb.InvalidInputException):
        duckdb.read_parquet(str(landed(tmp_path)))
    with pytest.raises((EOFError, zlib.error)):
        gzip.decompress(landed(tmp_path, READS, HOUR).read_bytes())


def test_duplicated_brings_a_fifth_of_the_rows_twice(tmp_path, right):
    rows = happen(tmp_path, "duplicated")
    assert len(rows.distinct()) == len(right)
    assert len(rows) / len(right) == pytest.approx(1.2, abs=0.03)


@pytest.mark.parametrize(
    ("source", "columns"),
    [(TRANSACTIONS, {"quantity", "sales_value"}), (READS, {"seconds_read", "completion"})],
)
def test_corrected_changes_a_few_rows_and_only_in_the_usual_columns(tmp_path, source, columns):
    before = happen(tmp_path / "right", None, source=source)
    after = happen(tmp_path / "wrong", "corrected", source=source)
    others = [name for name in before.columns if name not in columns]
    assert len(after) == len(before)
    assert len(after.project(*others).except_(before.project(*others))) == 0
    for name in columns:
        changed = len(after.project(*others, name).except_(before.project(*others, name)))
        assert 0.01 < changed / len(before) < 0.06
    if source == READS:
        assert len(after.filter("completion NOT BETWEEN 0 AND 1")) == 0


@pytest.mark.parametrize("column", ["store_id", "retail_disc", "transaction_timestamp", "quantity"])
def test_corrected_can_be_asked_for_any_column(tmp_path, right, column):
    after = happen(tmp_path, "corrected", column)
    others = [name for name in right.columns if name != column]
    assert len(after.project(*others).except_(right.project(*others))) == 0
    assert len(after.except_(right)) > 0


def test_renamed_column_brings_the_values_under_another_name(tmp_path, right):
    rows = happen(tmp_path, "renamed-column", "sales_value")
    assert rows.columns == [name.replace("sales_value", "sales_value_new") for name in right.columns]
    assert rows.sum("sales_value_new").fetchall() == right.sum("sales_value").fetchall()


def test_retyped_column_brings_text_that_is_no_number(tmp_path, right):
    rows = happen(tmp_path, "retyped-column", "quantity")
    assert str(rows.types[rows.columns.index("quantity")]) == "VARCHAR"
    assert len(rows.filter("try_cast(quantity AS BIGINT) IS NOT NULL")) == 0


def test_retyped_column_can_turn_text_into_numbers(tmp_path):
    rows = happen(tmp_path, "retyped-column", "device", source=READS)
    assert str(rows.types[rows.columns.index("device")]) == "BIGINT"


def test_extra_column_comes_last(tmp_path, right):
    assert happen(tmp_path, "extra-column").columns == [*right.columns, "upstream_note"]


def test_missing_column_does_not_come(tmp_path, right):
    assert happen(tmp_path, "missing-column", "week").columns == [n for n in right.columns if n != "week"]


def test_without_being_asked_a_column_incident_spares_key_and_event_time(tmp_path, right):
    assert set(right.columns) - set(happen(tmp_path, "missing-column").columns) == {"household_id"}


def test_empty_keeps_the_columns_and_no_row(tmp_path, right):
    rows = happen(tmp_path, "empty")
    assert rows.columns == right.columns
    assert len(rows) == 0


def test_misplaced_rows_are_those_of_the_day_before(tmp_path, right):
    strays = happen(tmp_path, "misplaced-rows").except_(right)
    local = "timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE"
    assert strays.project(f"{local}::VARCHAR").distinct().fetchall() == [("2017-06-04",)]
    assert 0 < len(strays) < 0.05 * len(right)


def test_misplaced_rows_of_the_first_partition_come_from_the_second(tmp_path):
    deliver(tmp_path, {"webtoon.reads": ["2017-12-04-00:00"]}, incident="misplaced-rows", scale=1.0)
    rows = duckdb.read_json(str(landed(tmp_path, READS, "2017-12-04-00:00")))
    assert rows.project("hour(started_at)").distinct().order("1").fetchall() == [(15,), (16,)]


@pytest.mark.parametrize(
    ("source", "incident", "column", "message"),
    [
        (
            "commerce.products",
            "misplaced-rows",
            None,
            "neighbouring partition, and commerce.products has none",
        ),
        ("commerce.products", "lost", None, "unknown incident 'lost'; choose one of missing, late"),
        (
            "commerce.products",
            "late",
            "brand",
            "goes only with one of the incidents corrected, missing-column",
        ),
        ("commerce.products", None, "brand", "goes only with one of the incidents"),
        ("commerce.products", "renamed-column", "colour", "no column 'colour'; its columns: product_id"),
    ],
)
def test_an_impossible_incident_is_refused_before_anything_is_written(tmp_path, source, incident, column, message):
    with pytest.raises(IncidentError, match=message):
        deliver(tmp_path / "zone", {source: ["full"]}, incident=incident, column=column)
    assert not (tmp_path / "zone").exists()
