import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platform_assets.partitions import COMMERCE_WEEKLY
from platform_assets.sources.commerce import CAMPAIGNS, PROMOTIONS, TRANSACTIONS
from platform_assets.sources.declaration import Column, Source
from platform_assets.sources.landing import MARKER
from platform_assets.sources.validation import Candidate, CandidateError, Problem, inspect
from tests.platform_assets.sources.conftest import JSON_FORMATS, TEXT_FORMATS

DAY, NEXT_DAY = "2017-03-01", "2017-03-02"

Rows = list[dict[str, Any]]
Deliver = Callable[..., Path]
Inspect = Callable[..., Candidate]


@pytest.fixture
def inspected(landing_root: Path, tmp_path: Path) -> Inspect:
    """Inspect partitions into a candidate of its own."""

    def run(source: Source, *partitions: str) -> Candidate:
        return inspect(source, landing_root, partitions or (DAY,), tmp_path / f"{source.entity}.duckdb")

    return run


def only(candidate: Candidate) -> Problem:
    (problem,) = candidate.problems
    return problem


def is_text(source: Source) -> bool:
    return source.file_format != "parquet"


def stored(candidate: Candidate) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return candidate.relation(connection).order("all").fetchall()


def test_good_partitions_are_read_exactly_with_their_key(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    days = (DAY, NEXT_DAY)
    for day in days:
        deliver(sales, sales_rows(sales, day), day)
    candidate = inspected(sales, *days)
    assert candidate.problems == ()
    assert candidate.accepted == days
    assert candidate.rows == {DAY: 3, NEXT_DAY: 3}
    assert stored(candidate) == [(day, *row.values()) for day in days for row in sales_rows(sales, day)]


def test_a_partition_of_several_files_is_read_whole_and_hidden_files_are_not_data(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales, count=4)
    file = deliver(sales, rows[:2], DAY)
    deliver(sales, rows[2:], DAY, file="part-00001")
    (file.parent / f".part-00002{sales.extension}").write_text("half written")
    assert inspected(sales).rows == {DAY: 4}


def test_the_order_of_columns_does_not_matter(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales, count=2)
    deliver(sales, rows[:1], DAY)
    turned = [dict(reversed(row.items())) for row in rows[1:]]
    deliver(sales, turned, DAY, file="part-00001")
    candidate = inspected(sales)
    assert candidate.problems == ()
    assert stored(candidate) == [(DAY, *row.values()) for row in rows]


def test_an_undelivered_partition_is_named(sales: Source, landing_root: Path, inspected: Inspect) -> None:
    problem = only(inspected(sales))
    assert problem.rule == "delivered"
    assert f"{sales.partition_dir(landing_root, DAY)} does not exist" in str(problem)


def test_a_partition_without_its_marker_is_refused(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    deliver(sales, sales_rows(sales), DAY, marker=False)
    problem = only(inspected(sales))
    assert problem.rule == "delivered"
    assert "has no _SUCCESS" in problem.message
    assert "write _SUCCESS after the last file" in problem.how_to_fix


def test_a_partition_without_files_is_refused(sales: Source, landing_root: Path, inspected: Inspect) -> None:
    folder = sales.partition_dir(landing_root, DAY)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    assert "holds no files" in only(inspected(sales)).message


def test_a_file_of_another_format_is_named(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    file = deliver(sales, sales_rows(sales), DAY)
    (file.parent / "part-00001.xlsx").write_text("?")
    problem = only(inspected(sales))
    assert (problem.file, problem.rule) == ("part-00001.xlsx", "delivered")
    assert f"not a {sales.extension} file" in problem.message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_named(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect, share: float
) -> None:
    file = deliver(sales, sales_rows(sales, count=40), DAY)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    candidate = inspected(sales)
    if share == 0 and sales.file_format == "jsonl" and not sales.compression:
        assert only(candidate).rule == "not_empty"
        return
    problem = only(candidate)
    assert (problem.rule, problem.partition, problem.file) == ("readable", DAY, file.name)
    assert "deliver the partition again" in problem.how_to_fix


def test_a_file_of_noise_is_named_and_the_other_partitions_go_on(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    days = [DAY, NEXT_DAY, "2017-03-03"]
    for day in days:
        file = deliver(sales, sales_rows(sales, day), day)
        if day == NEXT_DAY:
            file.write_bytes(bytes(range(256)) * 20 + b"\n")
    candidate = inspected(sales, *days)
    assert candidate.accepted == (DAY, "2017-03-03")
    assert {problem.partition for problem in candidate.problems} == {NEXT_DAY}
    assert {problem.file for problem in candidate.problems} == {file.name}


def test_damage_inside_a_file_is_named_and_the_other_files_are_read(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    days = [DAY, NEXT_DAY]
    for day in days:
        file = deliver(sales, sales_rows(sales, day, count=200), day)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 if is_text(sales) else 40
    content[middle : middle + 30] = b'\x00"{' * 10
    file.write_bytes(content)
    candidate = inspected(sales, *days)
    assert candidate.accepted == (DAY,)
    assert candidate.rows[DAY] == 200
    assert candidate.problems[0].file == file.name


@pytest.mark.parametrize("sales", [("csv", None)], indirect=True)
def test_a_row_with_too_few_values_is_named_by_its_line(
    deliver: Deliver, sales_rows: Any, inspected: Inspect, sales: Source
) -> None:
    file = deliver(sales, sales_rows(sales), DAY)
    file.write_text(file.read_text() + "1,2,3\n")
    problem = only(inspected(sales))
    assert problem.rule == "readable"
    assert "line 5 has 3 values, the header names 6 columns" in problem.message


def test_a_renamed_column_is_missing_under_one_name_and_undeclared_under_the_other(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = [{**row, "amount": row["amount_usd"]} for row in sales_rows(sales)]
    for row in rows:
        del row["amount_usd"]
    file = deliver(sales, rows, DAY, types={"amount": "DOUBLE"})
    problems = inspected(sales).problems
    assert {(problem.column, problem.file) for problem in problems} == {
        ("amount_usd", file.name),
        ("amount", file.name),
    }
    assert any("column 'amount_usd' (DOUBLE) is missing" in str(problem) for problem in problems)
    assert any("column 'amount' is not declared" in str(problem) for problem in problems)


def test_an_extra_column_is_named(sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect) -> None:
    deliver(sales, [{**row, "tip": "2"} for row in sales_rows(sales)], DAY)
    problem = only(inspected(sales))
    assert (problem.rule, problem.column) == ("columns", "tip")


@pytest.mark.parametrize("sales", JSON_FORMATS, indirect=True)
def test_an_extra_column_in_one_row_of_many_is_named(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales, count=30)
    rows[17]["tip"] = 2
    deliver(sales, rows, DAY)
    assert only(inspected(sales)).column == "tip"


def test_a_retyped_column_is_named_with_both_types(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = [{**row, "product_id": f"P-{row['product_id']}"} for row in sales_rows(sales)]
    file = deliver(sales, rows, DAY, types={"product_id": "VARCHAR"})
    problem = only(inspected(sales))
    assert (problem.rule, problem.file, problem.column) == ("columns", file.name, "product_id")
    assert "BIGINT" in problem.message
    assert ("P-7" if sales.file_format == "csv" else "VARCHAR") in problem.message


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("product_id", "7.5"),
        ("product_id", "99999999999999999999"),
        ("sold_at", "yesterday"),
        ("amount_usd", "1,50"),
        ("is_member", "perhaps"),
    ],
)
@pytest.mark.parametrize("sales", TEXT_FORMATS, indirect=True)
def test_a_single_value_of_another_type_is_shown(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect, column: str, value: str
) -> None:
    rows = sales_rows(sales, count=20)
    rows[11][column] = value
    file = deliver(sales, rows, DAY)
    problem = only(inspected(sales))
    assert (problem.rule, problem.file, problem.column) == ("columns", file.name, column)
    assert "VARCHAR" in problem.message or repr(value) in problem.message


@pytest.mark.parametrize("sales", TEXT_FORMATS, indirect=True)
def test_an_integer_too_large_for_the_lake_is_shown(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales)
    rows[0]["product_id"] = 2**63
    deliver(sales, rows, DAY)
    problem = only(inspected(sales))
    assert problem.column == "product_id"
    assert "9223372036854775808" in problem.message


def test_a_partition_without_rows_is_refused_unless_declared(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    deliver(sales, [], DAY)
    problem = only(inspected(sales))
    assert problem.rule == "not_empty"
    assert "may_be_empty=True" in problem.how_to_fix
    quiet = replace(sales, entity="quiet", may_be_empty=True)
    deliver(quiet, [], DAY)
    candidate = inspected(quiet)
    assert candidate.problems == ()
    assert (candidate.accepted, candidate.rows, stored(candidate)) == ((DAY,), {DAY: 0}, [])


def test_a_missing_value_is_refused_where_the_column_is_not_nullable(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales)
    rows[0]["amount_usd"] = rows[0]["note"] = None
    deliver(sales, rows, DAY)
    problem = only(inspected(sales))
    assert (problem.rule, problem.column) == ("not_null", "amount_usd")
    assert "no value in 1 rows" in problem.message


@pytest.mark.parametrize("sales", JSON_FORMATS, indirect=True)
def test_a_column_missing_in_one_row_of_many_is_named(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales, count=30)
    del rows[17]["amount_usd"]
    deliver(sales, rows, DAY)
    problem = only(inspected(sales))
    assert "column 'amount_usd' (DOUBLE) is missing" in problem.message


@pytest.mark.parametrize("sales", JSON_FORMATS, indirect=True)
def test_a_nullable_column_may_be_left_out_of_json_rows(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales)
    del rows[2]["note"]
    deliver(sales, rows, DAY)
    assert inspected(sales).problems == ()


def test_a_repeated_key_is_counted_with_an_example(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales)
    deliver(sales, [*rows, rows[1], rows[1]], DAY)
    problem = only(inspected(sales))
    assert problem.rule == "unique_key"
    assert "2 rows repeat the key of another, the first is basket_id=101, product_id=7" in problem.message


def test_a_key_may_come_again_in_another_partition(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    for day in (DAY, NEXT_DAY):
        deliver(sales, sales_rows(sales, day), day)
    assert inspected(sales, DAY, NEXT_DAY).problems == ()


def test_rows_of_another_day_are_counted_with_an_example(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales)
    rows[0]["sold_at"] = datetime(2017, 3, 1, 4, 59)
    rows[2]["sold_at"] = datetime(2017, 3, 2, 5)
    file = deliver(sales, rows, DAY)
    problem = only(inspected(sales))
    assert (problem.rule, problem.file, problem.column) == ("in_partition", file.name, "sold_at")
    assert "2 rows are outside the partition" in problem.message
    assert "2017-03-01 04:59:00" in problem.message
    assert "2017-03-01 05:00:00 to 2017-03-02 05:00:00 UTC" in problem.message
    assert "time zone" in problem.how_to_fix


@pytest.mark.parametrize(
    ("day", "hours"), [("2017-03-11", 24), ("2017-03-12", 23), ("2017-11-05", 25), ("2017-12-24", 24)]
)
def test_the_first_and_last_moment_of_a_day_are_its_own_also_when_the_clocks_change(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect, day: str, hours: int
) -> None:
    rows = sales_rows(sales, day)
    start = rows[0]["sold_at"]
    rows[1]["sold_at"] = start + timedelta(hours=hours) - timedelta(microseconds=1)
    deliver(sales, rows, day)
    assert inspected(sales, day).problems == ()
    late = replace(sales, entity="late")
    rows[1]["sold_at"] = start + timedelta(hours=hours)
    deliver(late, rows, day)
    assert only(inspected(late, day)).rule == "in_partition"


def test_a_week_number_says_to_which_week_a_row_belongs(deliver: Deliver, inspected: Inspect) -> None:
    weeks = COMMERCE_WEEKLY.get_partition_keys()
    cell = {"product_id": 1, "store_id": 2, "display_location": "0", "mailer_location": "A"}
    for number in (1, 12, 53):
        deliver(PROMOTIONS, [{**cell, "week": number}], weeks[number - 1])
    assert inspected(PROMOTIONS, weeks[0], weeks[11], weeks[52]).problems == ()
    late = replace(PROMOTIONS, entity="late")
    deliver(late, [{**cell, "week": 11}], weeks[11])
    assert "is 11 in the first of them" in only(inspected(late, weeks[11])).message


def test_repeated_rows_are_kept_where_no_key_is_declared(deliver: Deliver, inspected: Inspect) -> None:
    cell = {"product_id": 1, "store_id": 2, "display_location": "0", "mailer_location": "A", "week": 1}
    deliver(PROMOTIONS, [cell, cell], "2016-12-26")
    assert inspected(PROMOTIONS, "2016-12-26").rows == {"2016-12-26": 2}


def test_the_facts_of_the_retail_data_are_accepted(deliver: Deliver, inspected: Inspect) -> None:
    # Zero quantities, fuel by the thousandth of a gallon, unknown products; this evening is tomorrow in UTC.
    row = {
        "household_id": 1,
        "store_id": 2,
        "basket_id": 3,
        "product_id": 999_999_999,
        "quantity": 0,
        "sales_value": 0.0,
        "retail_disc": 1.5,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "week": 53,
        "transaction_timestamp": datetime(2018, 1, 1, 4, 1, 20),
    }
    fuel = {**row, "basket_id": 4, "quantity": 89_638}
    deliver(TRANSACTIONS, [row, fuel], "2017-12-31")
    assert inspected(TRANSACTIONS, "2017-12-31").problems == ()


def test_a_source_without_partitions_is_inspected_whole(deliver: Deliver, inspected: Inspect) -> None:
    row = {
        "campaign_id": 1,
        "campaign_type": "Type A",
        "start_date": "2017-01-01",
        "end_date": "2017-02-01",
        "household_id": 1,
    }
    deliver(CAMPAIGNS, [row, {**row, "household_id": 2}])
    candidate = inspected(CAMPAIGNS, "full")
    assert candidate.problems == ()
    assert [columns[0] for columns in stored(candidate)] == [1, 1]
    again = replace(CAMPAIGNS, entity="again")
    deliver(again, [row, row])
    assert only(inspected(again, "full")).rule == "unique_key"


def test_timestamps_of_another_precision_are_the_same_type(deliver: Deliver, inspected: Inspect) -> None:
    columns = (Column("at", "TIMESTAMP", "At."),)
    source = replace(TRANSACTIONS, columns=columns, key=(), event_time=None, expectations=())
    file = deliver(source, [{"at": datetime(2017, 3, 1)}], DAY)
    pq.write_table(pa.table({"at": pa.array([datetime(2017, 3, 1)], pa.timestamp("ns"))}), file)
    assert inspected(source).problems == ()


def test_json_lines_that_are_no_objects_are_refused(deliver: Deliver, inspected: Inspect) -> None:
    file = deliver(CAMPAIGNS, [{"campaign_id": 1}])
    file.write_text("[1, 2]\n")
    assert "not a JSON object" in only(inspected(CAMPAIGNS, "full")).message


@pytest.mark.parametrize("sales", [("csv", "gzip")], indirect=True)
def test_a_header_that_names_a_column_twice_is_refused(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    file = deliver(sales, sales_rows(sales), DAY)
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"note", b"basket_id", 1)))
    assert "names 'basket_id' more than once" in only(inspected(sales)).message


def test_every_problem_names_partition_and_remedy_in_one_line(
    sales: Source, deliver: Deliver, sales_rows: Any, inspected: Inspect
) -> None:
    rows = sales_rows(sales)
    deliver(sales, [*rows, rows[0]], DAY)
    line = str(only(inspected(sales)))
    assert line.startswith(f"partition {DAY}, file part-00000{sales.extension}: 1 rows repeat the key")
    assert line.endswith("deliver the partition again with one row per basket_id, product_id.")


def test_no_space_for_the_candidate_is_no_fault_of_the_delivery(
    deliver: Deliver, sales_rows: Any, sales: Source, landing_root: Path, tmp_path: Path
) -> None:
    deliver(sales, sales_rows(sales), DAY)
    with pytest.raises(CandidateError, match=r"commerce\.sales.*2017-03-01.*TMPDIR.*intact"):
        inspect(sales, landing_root, [DAY], tmp_path / "no-such-folder" / "candidate.duckdb")
