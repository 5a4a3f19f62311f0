"""A home says whose it is and what is stored in it: nobody else writes to its places, and older ones are upgraded."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from resources.environment import Environment
from resources.home import HOME_FILE, Home, HomeError, Step, open_home, read
from resources.ledger import Ledger
from resources.warehouse import Warehouse

REDIS = os.environ.get("HEADWATER_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")


@pytest.fixture
def other(environment: Environment, tmp_path: Path) -> Environment:
    """Another home beside the environment's."""
    return Environment.of({"HEADWATER_HOME": str(tmp_path / "other")})


def steps_that_note(done: list[str], *names: str) -> list[Step]:
    return [Step(name, lambda _, name=name: done.append(name)) for name in names]  # type: ignore[misc]


def of_first_version(environment: Environment) -> None:
    """A lake with receipts, as the code left it that kept no record of its home."""
    Warehouse.of(environment).snapshot()
    Ledger.of(environment).standings()


def test_a_new_home_is_of_the_present_version_and_needs_no_step(environment: Environment) -> None:
    done: list[str] = []
    home = open_home(environment, steps_that_note(done, "first", "second"))
    assert (home.version, done) == (3, [])
    assert read(environment) == home
    assert open_home(environment, steps_that_note(done, "first", "second")) == home


def test_a_home_without_a_record_is_of_the_first_version(environment: Environment) -> None:
    of_first_version(environment)
    done: list[str] = []
    home = open_home(environment, steps_that_note(done, "first", "second"))
    assert (home.version, done) == (3, ["first", "second"])
    open_home(environment, steps_that_note(done, "first", "second", "third"))
    assert done == ["first", "second", "third"]


def test_a_newer_home_is_refused_by_its_version(environment: Environment) -> None:
    open_home(environment, steps_that_note([], "first", "second"))
    with pytest.raises(HomeError, match=r"newer Headwater: it is of version 3, .* knows version 1.*newer code"):
        open_home(environment, [])


@pytest.mark.parametrize("killed_at", range(3))
def test_an_upgrade_killed_at_any_step_goes_on_with_that_step(environment: Environment, killed_at: int) -> None:
    of_first_version(environment)
    done: list[str] = []
    steps = steps_that_note(done, "a", "b", "c")

    def dies(_: Environment) -> None:
        done.append("killed")
        raise KeyboardInterrupt

    broken = [*steps[:killed_at], Step("dies", dies), *steps[killed_at + 1 :]]
    with pytest.raises(KeyboardInterrupt):
        open_home(environment, broken)
    known = read(environment)
    assert known is not None
    assert known.version == 1 + killed_at
    assert open_home(environment, steps).version == 4
    assert [name for name in done if name != "killed"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "notes", ["process 1, http://127.0.0.1:3000", '{"process": 1, "address": "http://127.0.0.1:3000", "groups": []}']
)
def test_an_upgrade_does_not_happen_under_running_services(environment: Environment, notes: str) -> None:
    import fcntl

    of_first_version(environment)
    environment.services_lock.parent.mkdir(parents=True)
    with environment.services_lock.open("w") as lock:
        lock.write(notes)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(HomeError, match=r"still runs on .*process 1.*stop it"):
            open_home(environment, steps_that_note([], "first"))
    assert open_home(environment, steps_that_note([], "first")).version == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}'])
def test_a_broken_record_is_named_with_what_to_do(environment: Environment, content: str) -> None:
    (environment.home / HOME_FILE).write_text(content)
    with pytest.raises(HomeError, match=r"home\.json cannot be read.*put back a copy"):
        open_home(environment, [])


def test_a_home_that_was_moved_names_the_command(environment: Environment, other: Environment) -> None:
    open_home(environment, [])
    environment.home.rename(other.home)
    with pytest.raises(HomeError, match=r"last opened as .*/home and is now .*/other.*headwater move"):
        open_home(other, [])


def test_a_home_of_the_first_version_that_was_moved_is_found_out_by_its_lake(
    environment: Environment, other: Environment
) -> None:
    of_first_version(environment)
    environment.home.rename(other.home)
    with pytest.raises(HomeError, match=r"last opened as .*/home and is now .*/other.*headwater move"):
        open_home(other, [])


def test_one_home_is_no_second_environment(environment: Environment) -> None:
    open_home(environment, [])
    with pytest.raises(HomeError, match="belongs to environment prod, and HEADWATER_ENV is dev-bob"):
        open_home(replace(environment, name="dev-bob"), [])


def test_the_environments_of_one_home_each_have_their_own(environment: Environment) -> None:
    alice = Environment.of({"HEADWATER_HOME": str(environment.home), "HEADWATER_ENV": "dev-alice"})
    assert open_home(environment, []).id != open_home(alice, []).id


@pytest.fixture
def online_redis() -> Iterator[str]:
    """The address of a Redis without a claim."""
    client = redis.Redis.from_url(REDIS)
    try:
        client.ping()
    except redis.ConnectionError as error:
        pytest.skip(f"no Redis at {REDIS} ({error}); set HEADWATER_TEST_REDIS_URL")
    client.delete("headwater:prod:home")
    yield REDIS
    client.delete("headwater:prod:home")


@pytest.mark.parametrize("setting", ["catalog", "dagster_storage", "data", "online_store", "redis"])
def test_a_place_outside_belongs_to_one_home(
    environment: Environment, other: Environment, tmp_path: Path, setting: str, request: pytest.FixtureRequest
) -> None:
    if setting == "redis":
        named = {"online_store": request.getfixturevalue("online_redis")}
    elif setting in ("catalog", "dagster_storage"):
        named = {setting: request.getfixturevalue("postgres")}
    else:
        named = {setting: str(tmp_path / "shared")}
    mine, theirs = replace(environment, **named), replace(other, **named)
    open_home(mine, [])
    open_home(mine, [])
    name = "HEADWATER_ONLINE_STORE" if setting == "redis" else f"HEADWATER_{setting.upper()}"
    with pytest.raises(HomeError, match=rf"{name} names .*belongs to another home, .*/home \(environment prod\)"):
        open_home(theirs, [])


@pytest.mark.parametrize("by", ["name", "link"])
def test_a_place_inside_another_home_is_refused(
    environment: Environment, other: Environment, tmp_path: Path, by: str
) -> None:
    open_home(other, [])
    place = other.home / "lake" / "data"
    if by == "link":
        place.mkdir(parents=True)
        (tmp_path / "link").symlink_to(place)
        place = tmp_path / "link"
    with pytest.raises(HomeError, match=r"HEADWATER_DATA names .*inside another home, .*/other"):
        open_home(replace(environment, data=str(place)), [])


def test_another_folder_of_data_is_a_move(environment: Environment, tmp_path: Path) -> None:
    open_home(environment, [])
    with pytest.raises(HomeError, match=r"files were in .*HEADWATER_DATA now says .*headwater move"):
        open_home(replace(environment, data=str(tmp_path / "elsewhere")), [])


def test_a_database_that_does_not_answer_is_named(environment: Environment) -> None:
    nowhere = replace(environment, catalog="postgresql://postgres@127.0.0.1:1/lake")
    with pytest.raises(HomeError, match=r"HEADWATER_CATALOG names .*cannot be used"):
        open_home(nowhere, [])


def test_a_redis_that_is_down_holds_up_nobody(environment: Environment) -> None:
    assert open_home(replace(environment, online_store="redis://127.0.0.1:1/0"), []).version == 1


def test_a_copied_home_is_known_by_its_place(environment: Environment, other: Environment) -> None:
    home = open_home(environment, [])
    shutil.copytree(environment.home, other.home, symlinks=True)
    with pytest.raises(HomeError, match="headwater move"):
        open_home(other, [])
    assert Home(**json.loads((other.home / HOME_FILE).read_text())) == home


@pytest.mark.parametrize(("name", "neighbour"), [("a[b]c", "abc"), ("a[b]c", None), ("a?c", "abc"), ("a*", "ab")])
def test_a_name_that_dagster_takes_for_a_pattern_is_refused(tmp_path: Path, name: str, neighbour: str | None) -> None:
    if neighbour:
        (tmp_path / neighbour / "dagster").mkdir(parents=True)
        (tmp_path / neighbour / "dagster" / "dagster.yaml").touch()
    with pytest.raises(HomeError, match=r"HEADWATER_HOME is .*as a pattern.*without them"):
        open_home(Environment.of({"HEADWATER_HOME": str(tmp_path / name)}), [])


@pytest.mark.parametrize("name", ["a?c", "a*"])
def test_a_pattern_that_means_this_home_alone_is_a_name(tmp_path: Path, name: str) -> None:
    assert open_home(Environment.of({"HEADWATER_HOME": str(tmp_path / name)}), []).version == 1
