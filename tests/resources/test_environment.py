"""Settings are read in one place and refused by name."""

from pathlib import Path

import pytest

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
    ],
)
def test_a_bad_setting_is_refused_by_name(setting: str, value: str, said: str) -> None:
    with pytest.raises(SettingError, match=setting.split("=", maxsplit=1)[0]) as refused:
        Environment.of({setting: value})
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)
