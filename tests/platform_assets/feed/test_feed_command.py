"""The command line: what it prints where, and what it refuses."""

import json

import pytest
from click.testing import CliRunner, Result

from platform_assets.feed.command import feed
from platform_assets.feed.incidents import INCIDENTS
from platform_assets.feed.landing import exclusive


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(feed, arguments)


def test_json_prints_one_object_a_source_and_nothing_else():
    result = run("webtoon", "--partitions", "2017-12-04-03:00", "--scale", "0.1", "--json")
    assert result.exit_code == 0, result.output
    reads, series, episodes = json.loads(result.stdout)
    assert (reads["source"], series["source"], episodes["source"]) == (
        "webtoon.reads",
        "webtoon.series",
        "webtoon.episodes",
    )
    assert {key: reads[key] for key in ("delivered", "unchanged", "withheld", "files")} == {
        "delivered": 1,
        "unchanged": 0,
        "withheld": 0,
        "files": 1,
    }
    assert series["rows"] == 400
    assert result.stderr == ""


def test_the_table_counts_what_was_unchanged_and_progress_goes_to_standard_error():
    run("webtoon/series")
    result = run("webtoon/series")
    assert result.exit_code == 0, result.output
    assert "unchanged" in result.stdout
    assert "webtoon.series" in result.stdout
    assert "webtoon.series: done" in result.stderr
    assert "1/1" not in result.stdout


def test_the_table_says_what_an_incident_withheld():
    assert "1 partitions withheld" in run("webtoon/series", "--incident", "missing").stdout


def test_partitions_land_under_the_home_of_the_environment(home):
    run("webtoon/series")
    assert (home / "landing" / "webtoon" / "series" / "dt=full" / "_SUCCESS").exists()


def test_help_explains_every_incident():
    text = " ".join(run("--help").output.split())
    for name, incident in INCIDENTS.items():
        assert name in text
        assert " ".join((incident.__doc__ or "").split()) in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["commerce/sales"], "unknown source 'commerce.sales'; choose from"),
        (["commerce/transactions", "--partitions", "2017-12-25"], "closed day"),
        (["commerce/transactions", "--partitions", "2018-01-01"], "run from 2017-01-01 to 2017-12-31"),
        (["--partitions", "12/04"], "neither a day such as"),
        (["webtoon/series", "--scale", "0"], "scale 0 is out of range"),
        (["webtoon/series", "--incident", "flood"], "'flood' is not one of 'missing'"),
        (["webtoon/series", "--column", "title"], "goes only with one of the incidents"),
    ],
)
def test_wrong_usage_exits_with_two_and_says_what_is_valid(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_busy_landing_zone_exits_with_one_and_names_the_process(home):
    with exclusive(home / "landing"):
        result = run("webtoon/series")
    assert result.exit_code == 1
    assert "another feed (pid" in result.stderr


def test_an_unknown_setting_exits_with_one_and_names_it(monkeypatch):
    monkeypatch.setenv("HEADWATER_HOEM", "/somewhere")
    result = run("webtoon/series")
    assert result.exit_code == 1
    assert "HEADWATER_HOEM" in result.stderr
