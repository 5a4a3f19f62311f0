"""A home: whose its places are, where it was when they were last opened, and the version of what is stored in them.

Belongs here: the record that a home keeps of itself, the claims on places outside of it, upgrading what an older
version stored. Not here: the steps of an upgrade (`platform_assets/instance/upgrades.py`), moving (`moving.py`).

A home says in `home.json` who it is. A place outside of it that a setting names (a database, the folder of the lake's
files, an online store) holds a claim, the same words, so that no other home or environment writes to it.
"""

import fcntl
import glob
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as db

from resources.database import place_of, transaction
from resources.environment import Environment, SettingError
from resources.feature_store.online_resource import OnlineStore
from resources.feature_store.online_rows import OnlineStoreError, RedisRows
from resources.warehouse import Warehouse

HOME_FILE = "home.json"
_CLAIM_FILE = ".headwater-home.json"
_FIRST = 1
"""The version of what was stored before homes said their version."""


class HomeError(SettingError):
    """The home cannot be opened as it is; the message says why and which command mends it."""


@dataclass(frozen=True)
class Home:
    """What a home says of itself.

    Attributes:
        id: the same for as long as the home lives, wherever it is.
        version: of what is stored in it.
        environment: whose it is.
        place: the folder, as it was called when the home was last opened.
        data: the folder of the lake's files, likewise.
    """

    id: str
    version: int
    environment: str
    place: str
    data: str

    @property
    def words(self) -> str:
        """The home as a message names it."""
        return f"{self.place} (environment {self.environment})"


@dataclass(frozen=True)
class Step:
    """One step of an upgrade: what it does in words, and doing it.

    `apply` changes each store in one transaction, and changes nothing where it was applied before: an upgrade that
    was killed begins with it again.
    """

    says: str
    apply: Callable[[Environment], None]


@dataclass(frozen=True)
class Place:
    """A place outside the home that a setting names.

    `claim` leaves a home's claim where there is none, or brings its own up to date; it tells whose the place is then.
    `release` is how a person takes away the claim of a home that is gone for good.
    """

    setting: str
    where: str
    release: str
    claim: Callable[[dict[str, str]], dict[str, str]]


def open_home(environment: Environment, steps: Sequence[Step]) -> Home:
    """Let `environment` use its home: make the record of a new one, upgrade that of an older version.

    Args:
        environment: whose home.
        steps: those from each version to the next, from the first version on.

    Raises:
        HomeError: the home is of a newer version, was moved or copied, belongs to another environment, or a place
            outside of it belongs to another home.
    """
    version = _FIRST + len(steps)
    with held(environment):
        _refuse_pattern(environment)
        home = read(environment) or _first_record(environment, version)
        refuse_foreign(home, environment)
        _refuse_newer(home, version)
        _refuse_moved(home, environment)
        claim(home, environment)
        write(environment, home)
        if home.version < version:
            refuse_in_use(environment, "try again: the home is to be upgraded")
        for number, step in enumerate(steps[home.version - _FIRST :], start=home.version + 1):
            step.apply(environment)
            home = replace(home, version=number)
            write(environment, home)
    return home


def read(environment: Environment) -> Home | None:
    """The record of the home; None where there is none yet.

    Raises:
        HomeError: the file is none of ours.
    """
    file = environment.home / HOME_FILE
    try:
        known = json.loads(file.read_text())
        return Home(**known)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise HomeError(
            f"{file} cannot be read ({error}): put back a copy of it, or delete it, and the home is taken for one of "
            "the first version and upgraded again"
        ) from error


def write(environment: Environment, home: Home) -> None:
    """Keep the record; whoever reads it meanwhile sees the old one or the new one."""
    if read(environment) != home:
        with _written(environment.home / HOME_FILE, asdict(home)) as written:
            written.rename(environment.home / HOME_FILE)


def refuse_in_use(environment: Environment, then: str) -> None:
    """Refuse what must not happen under running services.

    Raises:
        HomeError: the web UI, or a process of it, runs on this home.
    """
    if not environment.services_lock.exists():
        return
    with environment.services_lock.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            notes = lock.read().strip()
            # An older version wrote words.
            holder = f"process {json.loads(notes)['process']}" if notes.startswith("{") else notes or "starting"
            raise HomeError(
                f"Dagster still runs on {environment.home} ({holder}): stop it (Ctrl-C), then {then}"
            ) from None


@contextmanager
def held(environment: Environment) -> Iterator[None]:
    """Hold the home's record: nobody else upgrades or moves the home meanwhile."""
    environment.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (environment.home / "home.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def claim(home: Home, environment: Environment) -> None:
    """Claim every place outside the home.

    Raises:
        HomeError: one is another home's.
    """
    for path, setting in _paths(environment).items():
        owner = _enclosing(path)
        if owner is not None and owner != environment.home.resolve():
            raise HomeError(
                f"{setting} names {path}, which is inside another home, {owner}: two homes that write to one place "
                f"overwrite each other. Give this home, {environment.home}, a place of its own"
            )
    for place in _places(environment):
        owner_now = place.claim({"id": home.id, "environment": home.environment, "place": home.place})
        if owner_now["id"] != home.id:
            raise HomeError(
                f"{place.setting} names {place.where}, which belongs to another home, {owner_now['place']} "
                f"(environment {owner_now['environment']}): two that write to one place overwrite each other. Give "
                f"this home, {home.words}, a place of its own, or use that one by HEADWATER_HOME and HEADWATER_ENV. "
                f"Where that home is gone for good: {place.release}"
            )


def found(environment: Environment) -> Home:
    """The record of a home that stores something; one without a record is of the first version.

    Raises:
        HomeError: nothing was ever stored.
    """
    known = read(environment)
    if known is None and not _Stored(environment).anything:
        raise HomeError(f"{environment.home} is no home: nothing is stored in it. HEADWATER_HOME names another")
    return known or _of_first_version(environment)


def _first_record(environment: Environment, version: int) -> Home:
    if _Stored(environment).anything:
        return _of_first_version(environment)
    return Home(uuid.uuid4().hex, version, environment.name, str(environment.home), environment.data)


def _of_first_version(environment: Environment) -> Home:
    """The record of a home without one, which was where its lake says that its files are."""
    data = _Stored(environment).data or environment.data
    default = environment.home / "lake" / "data"
    is_inside = Path(environment.data) == default and Path(data).parts[-2:] == default.parts[-2:]
    place = str(Path(data).parents[1]) if is_inside else str(environment.home)
    return Home(uuid.uuid4().hex, _FIRST, environment.name, place, data)


@dataclass(frozen=True)
class _Stored:
    """What a home without a record already stores."""

    environment: Environment

    @property
    def anything(self) -> bool:
        """Whether a lake, a receipt or a run was ever stored."""
        environment = self.environment
        files = [environment.home / "lake", environment.dagster_home / "runs", environment.home / "mlflow"]
        tables = {"ducklake_snapshot", "headwater_receipts", "runs"}
        return any(map(os.path.lexists, files)) or any(
            tables & _tables(setting, uri) for setting, uri in _databases(environment)
        )

    @cached_property
    def data(self) -> str | None:
        """The folder of the lake's files, by the lake's catalog; None where there is no lake."""
        environment = self.environment
        if environment.catalog == "sqlite":
            exists = (environment.home / "lake" / "catalog.sqlite").exists()
        else:
            exists = "ducklake_metadata" in _tables("HEADWATER_CATALOG", environment.catalog)
        return Warehouse.of(environment).recorded_data() if exists else None


def _refuse_pattern(environment: Environment) -> None:
    """Dagster 1.13 looks for its settings by a pattern: it must find those of this home, and no others."""
    found = set(glob.glob(str(environment.home)))
    others = {path for path in found if (Path(path) / "dagster" / "dagster.yaml").exists()} - {str(environment.home)}
    if str(environment.home) not in found or others:
        means = f"and {', '.join(sorted(others))} as well" if others else "and so finds nothing"
        raise HomeError(
            f"HEADWATER_HOME is {str(environment.home)!r}: Dagster reads * ? [ ] in it as a pattern, {means}. Give the "
            "folder a name without them"
        )


def refuse_foreign(home: Home, environment: Environment) -> None:
    """Refuse a home of another environment.

    Raises:
        HomeError: it is one.
    """
    if home.environment != environment.name:
        raise HomeError(
            f"{environment.home} belongs to environment {home.environment}, and HEADWATER_ENV is {environment.name}: "
            f"set HEADWATER_HOME to another folder; the environments of a home are under its folder environments/"
        )


def _refuse_newer(home: Home, version: int) -> None:
    if home.version > version:
        raise HomeError(
            f"{home.words} was written by a newer Headwater: it is of version {home.version}, and this code knows "
            f"version {version}. Use the newer code, or set HEADWATER_HOME to another folder"
        )


def _refuse_moved(home: Home, environment: Environment) -> None:
    moved = []
    if home.place != str(environment.home):
        moved.append(f"the home was last opened as {home.place} and is now {environment.home}")
    if home.data != environment.data and not _moved_along(home, environment):
        moved.append(f"the lake's files were in {home.data}, and HEADWATER_DATA now says {environment.data}")
    if moved:
        raise HomeError(f"{'; '.join(moved)}. What it holds names files by their old place: headwater move mends that")


def _moved_along(home: Home, environment: Environment) -> bool:
    """Whether the lake's files are inside the home, so that its move says it all."""
    return home.data == f"{home.place}/lake/data" and environment.data == f"{environment.home}/lake/data"


def _databases(environment: Environment) -> list[tuple[str, str]]:
    """The databases that settings name, which are no files of the home."""
    named = {"HEADWATER_CATALOG": environment.catalog, "HEADWATER_DAGSTER_STORAGE": environment.dagster_storage}
    return [(setting, uri) for setting, uri in named.items() if uri != "sqlite"]


def _paths(environment: Environment) -> dict[Path, str]:
    """The files and folders outside the home that settings name."""
    named = {Path(environment.data): "HEADWATER_DATA"}
    if "://" not in environment.online_store:
        named[Path(environment.online_store)] = "HEADWATER_ONLINE_STORE"
    return {
        path: setting
        for path, setting in named.items()
        if path not in (environment.home / "lake" / "data", environment.home / "online" / "rows.sqlite")
    }


def _enclosing(path: Path) -> Path | None:
    """The home that `path` is in, by whatever links."""
    real = path.resolve()
    return next((folder for folder in (real, *real.parents) if (folder / HOME_FILE).exists()), None)


def _places(environment: Environment) -> Iterator[Place]:
    for path, setting in _paths(environment).items():
        is_folder = setting == "HEADWATER_DATA"
        yield _file_place(setting, path, path / _CLAIM_FILE if is_folder else path.with_name(path.name + _CLAIM_FILE))
    for setting, uri in _databases(environment):
        yield _database_place(setting, uri)
    rows = OnlineStore.of(environment).rows()
    if isinstance(rows, RedisRows):
        yield _redis_place(rows)


def _tables(setting: str, uri: str) -> set[str]:
    with _database(setting, uri) as connection:
        return set(db.inspect(connection).get_table_names())


def _file_place(setting: str, path: Path, file: Path) -> Place:
    def claim(mine: dict[str, str]) -> dict[str, str]:
        file.parent.mkdir(parents=True, exist_ok=True)
        # A link is made as a whole, or not at all where another home was faster.
        with suppress(FileExistsError), _written(file, mine) as written:
            os.link(written, file)
        known = dict(json.loads(file.read_text()))
        if known["id"] == mine["id"] and known != mine:
            with _written(file, mine) as written:
                written.rename(file)
        return known

    return Place(setting, str(path), f"delete {file}", claim)


def _database_place(setting: str, uri: str) -> Place:
    def claim(mine: dict[str, str]) -> dict[str, str]:
        with _database(setting, uri) as connection:
            row = connection.execute(db.select(_CLAIM)).first()
        known = None if row is None else dict(row._mapping)
        if known == mine or (known and known["id"] != mine["id"]):
            return known
        with _database(setting, uri, writes=True) as connection:
            row = connection.execute(db.select(_CLAIM)).first()
            if row is not None and row.id != mine["id"]:
                return dict(row._mapping)
            connection.execute(db.delete(_CLAIM))
            connection.execute(db.insert(_CLAIM).values(**mine))
        return mine

    return Place(setting, place_of(uri), f"drop its table {_CLAIM.name}", claim)


def _redis_place(rows: RedisRows) -> Place:
    def claim(mine: dict[str, str]) -> dict[str, str]:
        try:
            return dict(json.loads(rows.claim(mine["id"], json.dumps(mine))))
        except OnlineStoreError:
            # One that is down holds up no command: nothing is written to it while it is.
            return mine

    return Place("HEADWATER_ONLINE_STORE", rows.address, f"delete its key {rows.claim_key}", claim)


@contextmanager
def _database(setting: str, uri: str, writes: bool = False) -> Iterator[db.Connection]:
    try:
        with transaction(uri, _CLAIMS, writes) as connection:
            yield connection
    except db.exc.DBAPIError as error:
        raise HomeError(
            f"{setting} names {place_of(uri)}, which cannot be used ({error.orig}); see that its server answers and "
            "lets this user make tables"
        ) from error


@contextmanager
def _written(path: Path, says: dict[str, Any]) -> Iterator[Path]:
    """A file beside `path` that is safely on disk, for the block to put where it belongs."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.", delete=False) as file:
        json.dump(says, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        yield Path(file.name)
    finally:
        Path(file.name).unlink(missing_ok=True)


_CLAIMS = db.MetaData()
_CLAIM = db.Table(
    "headwater_home",
    _CLAIMS,
    db.Column("id", db.Text, primary_key=True),
    db.Column("environment", db.Text, nullable=False),
    db.Column("place", db.Text, nullable=False),
)
