"""Settings are read in one place and refused by name."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.environment import SETTINGS, Environment, SettingError


def test_defaults_keep_everything_under_one_folder() -> None:
    environment = Environment.of({"HEADWATER_HOME": "/srv/hw"})
    assert environment.name == "prod"
    assert environment.landing == Path("/srv/hw/landing")
    assert environment.lake_catalog == "sqlite:/srv/hw/lake/catalog.sqlite"
    assert environment.data == "/srv/hw/lake/data"


def test_every_environment_has_its_own_storage() -> None:
    homes = {Environment.of({"HEADWATER_ENV": name}).home for name in ("prod", "dev-ann", "dev-bob", "pr-12")}
    assert len(homes) == 4


def test_variables_describe_the_same_environment_again() -> None:
    given = {"HEADWATER_HOME": "/srv/hw", "HEADWATER_ENV": "dev-ann", "HEADWATER_THREADS": "1"}
    environment = Environment.of(given)
    again = {name: value for name, value in environment.variables.items() if name in SETTINGS}
    assert Environment.of(again) == environment


def test_postgres_catalog_is_one_setting() -> None:
    environment = Environment.of({"HEADWATER_CATALOG": "postgresql://me@db:5432/lake"})
    assert environment.lake_catalog == "postgres:postgresql://me@db:5432/lake"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("HEADWATER_HOMES", "x", "did you mean HEADWATER_HOME?"),
        ("HEADWATER_ENV", "production", "unknown environment 'production' in HEADWATER_ENV"),
        ("HEADWATER_ENV", "dev-", "unknown environment"),
        ("HEADWATER_ENV", "pr-x", "unknown environment"),
        ("HEADWATER_CATALOG", "mysql://me@db/lake", "allowed: sqlite, or postgresql://"),
        ("HEADWATER_CATALOG", "postgresql://me@db:5432/", "allowed: sqlite, or postgresql://"),
        ("HEADWATER_DAGSTER_STORAGE", "postgresql://me:secret@db/x", "carries a password"),
        ("HEADWATER_THREADS", "0", "whole number of at least 1"),
        ("HEADWATER_MEMORY", "lots", "such as 1500MB"),
        ("HEADWATER_PORT", "http", "HEADWATER_PORT is 'http'"),
        ("HEADWATER_DATA", "s3://bucket/lake", "object stores cannot be used yet"),
        ("HEADWATER_HOME", "/srv/a\\b", "a backslash or a control character"),
        ("HEADWATER_HOME", "/srv/a\nb", "a backslash or a control character"),
        ("HEADWATER_HOME", "~nobody-of-that-name/x", "give the folder without the ~"),
        ("HEADWATER_RUN_START_SECONDS", "soon", "whole number of at least 1"),
        ("HEADWATER_WEB_ORIGINS", "headwater.example", "such as https://headwater.example"),
        ("HEADWATER_WEB_ORIGINS", "https://a.example, https://b.example/path", "names 'https://b.example/path'"),
        ("HEADWATER_WEB_ORIGINS", "*", "names '*'"),
    ],
)
def test_a_bad_setting_is_refused_by_name(setting: str, value: str, said: str) -> None:
    with pytest.raises(SettingError, match=setting.split("=", maxsplit=1)[0]) as refused:
        Environment.of({setting: value})
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


SHARED = {
    "HEADWATER_CATALOG": "postgresql://me@db/lake",
    "HEADWATER_DATA": "/srv/data",
    "HEADWATER_DAGSTER_STORAGE": "postgresql://me@db/dagster",
    "HEADWATER_ONLINE_STORE": "/srv/rows.sqlite",
}


@pytest.mark.parametrize("name", ["dev-alice", "pr-3"])
@pytest.mark.parametrize("count", range(1, len(SHARED) + 1))
def test_no_environment_but_prod_has_a_place_by_name(name: str, count: int) -> None:
    for settings in itertools.combinations(SHARED, count):
        given_ = {setting: SHARED[setting] for setting in settings}
        assert Environment.of(given_).name == "prod"
        with pytest.raises(SettingError, match="no place is derived") as refused:
            Environment.of({**given_, "HEADWATER_ENV": name})
        assert all(setting in str(refused.value) for setting in settings)


def test_a_redis_may_be_shared_because_its_keys_name_the_environment() -> None:
    given_ = {"HEADWATER_ONLINE_STORE": "redis://127.0.0.1/0"}
    assert Environment.of({**given_, "HEADWATER_ENV": "dev-alice"}).online_store == given_["HEADWATER_ONLINE_STORE"]


@pytest.mark.parametrize("value", ["data", "./data", "../here/data"])
def test_a_relative_folder_of_data_is_made_absolute(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert Path(Environment.of({"HEADWATER_DATA": value}).data).resolve() == tmp_path / "here" / "data"
    assert Path(Environment.of({"HEADWATER_DATA": value}).data).is_absolute()


def test_a_tilde_is_the_persons_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environment = Environment.of({"HEADWATER_DATA": "~/lake", "HEADWATER_HOME": "~/hw"})
    assert (environment.data, environment.home) == (str(tmp_path / "lake"), tmp_path / "hw")


NAMES = st.text(st.characters(blacklist_categories=["Cc", "Cs"], blacklist_characters="/\\"), min_size=1, max_size=40)


@given(NAMES.filter(lambda name: name not in (".", "..") and not name.startswith("~")))
def test_any_name_of_a_home_describes_the_same_environment_again(name: str) -> None:
    environment = Environment.of({"HEADWATER_HOME": f"/srv/{name}", "HEADWATER_ENV": "dev-ann"})
    again = {name: value for name, value in environment.variables.items() if name in SETTINGS}
    assert Environment.of(again) == environment


def test_addresses_of_a_proxy_are_read_as_a_browser_names_them() -> None:
    given = "https://Headwater.Example:443, http://localhost:8080,http://[::1]:80"
    environment = Environment.of({"HEADWATER_WEB_ORIGINS": given})
    assert environment.web_origins == ("https://headwater.example", "http://localhost:8080", "http://[::1]")
