"""A SQLite file is opened by its own name, whatever that is, by everybody who is given its URI."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as db
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.instance.services import instance_settings
from resources.environment import Environment
from resources.ledger import Ledger, Receipt
from resources.model_registry import ModelRegistry
from resources.sqlite_address import sqlite_path, sqlite_uri

NAMES = st.text(
    st.characters(blacklist_categories=["Cc", "Cs"], blacklist_characters="/\\") | st.sampled_from("?#%'\";&=*{}$:@+ "),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", ".."))
ODD = ["a?b", "a#b", "a%41b", 'it\'s "b"', "ä 한;*{y}&=", "a?mode=ro&uri=true", "file:x", "{{ x }}", "$HOME", ": - x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """An environment whose home has an odd name; nothing may be left beside it, or where the process stands."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    environment = Environment.of({"HEADWATER_HOME": str(tmp_path / "homes" / request.param)})
    yield environment
    assert [path.name for path in (tmp_path / "homes").iterdir()] == [request.param]
    assert not list(here.iterdir())


@given(NAMES)
@settings(deadline=None)
def test_sqlalchemy_opens_the_file_that_the_uri_was_made_of(folder: Path, name: str) -> None:
    path = folder / f"-{name}"
    uri = sqlite_uri(path)
    assert sqlite_path(uri) == path
    engine = db.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(db.text("create table t (n integer)"))
    engine.dispose()
    assert sqlite3.connect(path).execute("select count(*) from t").fetchone() == (0,)
    path.unlink()
    assert not list(folder.iterdir())


def test_another_database_is_no_file() -> None:
    assert sqlite_path("postgresql://me@db/lake") is None


def test_receipts_are_in_the_home(odd: Environment) -> None:
    ledger = Ledger.of(odd)
    ledger.record([Receipt("a/b", "", "v", (), 1, "c", "", "prod", "run")])
    assert (odd.home / "lake" / "ledger.sqlite").stat().st_size > 0
    assert list(Ledger.of(odd).current("a/b")) == [""]


@pytest.mark.parametrize("odd", ["a?b", "a%41b", 'it\'s "b"', "ä 한;*{y}&="], indirect=True)
def test_models_are_in_the_home(odd: Environment) -> None:
    registry = ModelRegistry.of(odd)
    candidate = registry.log_candidate("m", "2017-01-01", "a model", {"depth": 1}, {"of": "a test"})
    version = registry.register(registry.candidate("m", "2017-01-01"))
    assert registry.load(version) == "a model"
    assert registry.file(candidate.run_id).is_relative_to(odd.mlflow_artifacts)
    assert registry.file(candidate.run_id).read_text() == "a model"


@dg.asset
def anything() -> dg.MaterializeResult[None]:
    """An asset."""
    return dg.MaterializeResult()


def test_runs_and_events_are_in_the_home(odd: Environment) -> None:
    odd.dagster_home.mkdir(parents=True)
    (odd.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(odd)))
    for runs in (1, 2):
        with dg.DagsterInstance.from_config(str(odd.dagster_home)) as instance:
            result = dg.materialize([anything], instance=instance)
            assert instance.get_runs_count() == runs
            assert instance.get_latest_materialization_event(anything.key)
            assert len(instance.all_logs(result.run_id)) > 3
            assert instance.all_instigator_state() == []
    assert {path.name for path in odd.dagster_home.rglob("*.db")} >= {"runs.db", "index.db", "schedules.db"}
