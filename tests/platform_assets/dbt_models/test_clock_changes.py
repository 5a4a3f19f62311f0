"""Days of 23, 24 and 25 hours through dbt itself: every hour is one pair with its own rows, in three zones."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pytest
import yaml

from platform_assets.dbt_models.translator import LakeTranslator
from platform_assets.dbt_models.window import event_time_flags, windows_variable
from resources.dbt import PROJECT, Dbt
from resources.environment import Environment
from resources.warehouse import Commit, TableName, Warehouse

pytestmark = pytest.mark.xdist_group("dbt")

TEAMS = {
    "newyork": ("America/New_York", ["2017-03-12", "2017-06-01", "2017-11-05"]),
    "berlin": ("Europe/Berlin", ["2017-03-26", "2017-06-01", "2017-10-29"]),
    "saopaulo": ("America/Sao_Paulo", ["2017-10-15", "2017-06-01", "2017-02-18"]),  # clocks change at midnight
}
MODELS = {
    "hours": (
        {"partitions": "hourly", "partition_column": "partition_key", "lookback": {"raw_reads": 2}},
        "select partition_key, read_id, happened_at, {{ hour_key('happened_at') }} as computed_key "
        "from {{ window_of(source('TEAM', 'raw_reads')) }} where {{ is_in_window() }}",
    ),
    "days": (
        {"partitions": "daily", "partition_column": "day"},
        "select cast({{ local_time('happened_at') }} as date) as day, count(*) as reads "
        "from {{ window_of(ref('TEAM_hours')) }} group by day",
    ),
    "weeks": (
        {"partitions": "weekly", "partition_column": "week"},
        "select cast({{ week_of('day') }} as date) as week, sum(reads) as reads "
        "from {{ window_of(ref('TEAM_days')) }} group by week",
    ),
    "months": (
        {"partitions": "monthly", "partition_column": "day"},
        "select cast(date_trunc('month', day) as date) as day, sum(reads) as reads "
        "from {{ window_of(ref('TEAM_days')) }} group by 1",
    ),
}


def hourly(team: str) -> dg.HourlyPartitionsDefinition:
    return dg.HourlyPartitionsDefinition("2017-01-01-00:00", end_date="2018-01-01-00:00", timezone=TEAMS[team][0])


def moments(team: str) -> list[datetime]:
    """Every twenty minutes of the team's three days, in UTC."""
    zone, days = ZoneInfo(TEAMS[team][0]), TEAMS[team][1]
    first = [datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1) for day in days]
    every = [start + timedelta(minutes=20 * n) for start in first for n in range(3 * 72)]
    return [moment for moment in every if str(moment.astimezone(zone).date()) in days]


class Shops:
    """Three teams over one lake, whose raw tables hold a read every twenty minutes."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.warehouse = Warehouse.of(environment)
        self.warehouse.snapshot()
        project = folder / "dbt"
        shutil.copytree(PROJECT / "macros", project / "macros")
        shutil.copy(PROJECT / "profiles.yml", project)
        _write_project(project)
        for team in TEAMS:
            _write_models(project / "models" / team, team)
            self.deliver(team, "before")
        self.dbt = Dbt.of(environment).of_folder(project, folder / "target")
        self.manifest = self.dbt.manifest()

    def deliver(self, team: str, version: str) -> None:
        """The same moments, with reads of another name."""
        rows: list[dict[str, object]] = [
            {
                "read_id": f"{version} {moment.isoformat()}",
                "happened_at": moment.replace(tzinfo=None),
                "partition_key": hourly(team).get_partition_key_for_timestamp(moment.timestamp()),
            }
            for moment in moments(team)
        ]
        table = pa.Table.from_pylist(rows)
        keys = sorted(set(table["partition_key"].to_pylist()))
        self.warehouse.replace_partitions(TableName(team, "raw_reads"), keys, table, Commit("test", "delivery"))

    def build(self, arguments: Sequence[str], windows: Mapping[str, str]) -> None:
        with self.dbt.build(arguments, self.manifest, LakeTranslator(), "run", windows) as process:
            said = [event.raw_event["info"]["msg"] for event in process.stream_raw_events()]
        assert process.process.returncode == 0, said[-20:]

    def rows(self, team: str, entity: str, columns: str) -> list[tuple[object, ...]]:
        with self.warehouse.reader() as lake:
            return lake.execute(f"select {columns} from lake.{team}.{team}_{entity} order by all").fetchall()


def _write_project(project: Path) -> None:
    declared = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())
    declared["vars"] = {
        "calendars": {team: {"time_zone": zone, "week_begins": "sunday"} for team, (zone, _) in TEAMS.items()}
    }
    declared["models"] = {"headwater": {"+materialized": "lake_table"}}
    declared["models"]["headwater"] |= {team: {"+schema": team} for team in TEAMS}
    (project / "dbt_project.yml").write_text(yaml.safe_dump(declared))


def _write_models(folder: Path, team: str) -> None:
    folder.mkdir(parents=True)
    raw = {"name": "raw_reads", "config": {"meta": {"partitions": "hourly"}}}
    source = {"name": team, "database": "lake", "schema": team, "tables": [raw]}
    models = [{"name": f"{team}_{name}", "config": {"meta": meta}} for name, (meta, _) in MODELS.items()]
    (folder / "models.yml").write_text(yaml.safe_dump({"sources": [source], "models": models}))
    for name, (_, sql) in MODELS.items():
        (folder / f"{team}_{name}.sql").write_text(sql.replace("TEAM", team))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory, extensions: Path, warm_dbt: None) -> Shops:
    folder = tmp_path_factory.mktemp("clocks")
    (folder / "home").mkdir()
    environment = Environment.of({"HEADWATER_HOME": str(folder / "home")})
    environment.extensions.symlink_to(extensions)
    shops = Shops(environment, folder)
    shops.build([], {})
    return shops


@pytest.mark.parametrize("team", TEAMS)
def test_each_hour_day_week_and_month_holds_the_rows_of_its_own_time(shops: Shops, team: str) -> None:
    zone, days = ZoneInfo(TEAMS[team][0]), TEAMS[team][1]
    local = [moment.astimezone(zone) for moment in moments(team)]
    keys = [hourly(team).get_partition_key_for_timestamp(moment.timestamp()) for moment in moments(team)]
    hours = Counter(keys)
    assert set(hours.values()) == {3}
    assert [len({key for key in hours if key.startswith(day)}) for day in days] == [23, 24, 25]
    found = shops.rows(team, "hours", "partition_key, computed_key")
    assert all(key == computed for key, computed in found)
    assert Counter(key for key, _ in found) == hours
    by_day = Counter(str(moment.date()) for moment in local)
    assert dict(shops.rows(team, "days", "partition_key, reads")) == by_day
    weeks: Counter[str] = Counter()
    for day, reads in by_day.items():
        date = datetime.fromisoformat(day)
        weeks[str((date - timedelta(days=date.isoweekday() % 7)).date())] += reads
    assert {key: int(str(reads)) for key, reads in shops.rows(team, "weeks", "partition_key, reads")} == weeks
    months = Counter(f"{moment:%Y-%m}-01" for moment in local)
    assert {key: int(str(reads)) for key, reads in shops.rows(team, "months", "partition_key, reads")} == months


@pytest.mark.parametrize("team", TEAMS)
def test_a_run_replaces_its_hours_and_no_others_of_the_same_name(shops: Shops, team: str) -> None:
    calendar = hourly(team)
    keys = sorted({calendar.get_partition_key_for_timestamp(moment.timestamp()) for moment in moments(team)})
    (second,) = (key for key in keys if len(key) > len("2017-11-05-01:00"))
    short = [key for key in keys if key.startswith(TEAMS[team][1][0])]
    chosen = [second, short[2]]
    shops.deliver(team, "after")
    flags = event_time_flags(calendar, chosen)
    shops.build(["--select", f"{team}_hours", *flags], windows_variable(calendar, chosen))
    rebuilt = {
        key for key, read in shops.rows(team, "hours", "partition_key, read_id") if str(read).startswith("after")
    }
    assert rebuilt == set(chosen)
    counted = Counter(key for (key,) in shops.rows(team, "hours", "partition_key"))
    assert counted[second] == counted[second[:16]] == 3
