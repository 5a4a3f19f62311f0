"""Making a home that was moved, copied or restored elsewhere readable: what it holds names files by their old place.

Belongs here: which stores name files, and rewriting each in one transaction. Not here: finding out that a home was
moved (`home.py`), settings that are written anew each time (`platform_assets/instance/services.py`). Done again, or
begun again after a kill, it comes to the same.
"""

import os
import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from resources.environment import Environment
from resources.home import HOME_FILE, Home, HomeError, claim, found, held, refuse_foreign, refuse_in_use, write
from resources.sqlite_address import sqlite_path
from resources.warehouse import Warehouse

_ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Where MLflow's database names artifacts."""


def move(environment: Environment, is_copy: bool = False) -> Home:
    """Let the home live where it is now.

    Args:
        environment: whose home.
        is_copy: whether the original goes on too; the copy is a home of its own from then on.

    Raises:
        HomeError: there is nothing to move, it is in use, or the original is still there and `is_copy` does not say so.
        LakeError: the lake's catalog cannot be written.
    """
    with held(environment):
        home = found(environment)
        refuse_foreign(home, environment)
        refuse_in_use(environment, "move it again")
        _refuse_original(home, environment, is_copy)
        _refuse_absent_files(home, environment)
        moved = replace(
            home,
            id=uuid.uuid4().hex if is_copy else home.id,
            place=str(environment.home),
            data=environment.data,
        )
        claim(moved, environment)
        if _has_catalog(environment):
            Warehouse.of(environment).name_data_anew(home.data)
        _name_artifacts_anew(environment)
        write(environment, moved)
    return moved


def _refuse_original(home: Home, environment: Environment, is_copy: bool) -> None:
    original = Path(home.place)
    is_elsewhere = original.exists() and not original.samefile(environment.home)
    is_there = is_elsewhere and any((original / name).exists() for name in (HOME_FILE, "lake"))
    if is_copy and home.place == str(environment.home):
        raise HomeError(f"{home.words} is where it was: it is no copy, or it is one that was told so already")
    if is_there and not is_copy:
        raise HomeError(
            f"{environment.home} was made from {original}, which is still there: if it is a copy, and both are to go "
            "on, say headwater move --copy; if it is to replace that one, delete that one first"
        )
    if is_copy and home.data == environment.data:
        raise HomeError(
            f"the copy {environment.home} would write to the lake's files of {original}, in {home.data}: copy that "
            "folder too, and set HEADWATER_DATA to the copy"
        )


def _refuse_absent_files(home: Home, environment: Environment) -> None:
    """Refuse a folder of data to which nothing was moved, as long as the files are where they were."""
    before, now = Path(home.data), Path(environment.data)
    if before != now and any(before.rglob("*.parquet")) and not any(now.rglob("*.parquet")):
        raise HomeError(
            f"the lake's files are in {before}, and {now} has none: move or copy them there, then headwater move, or "
            "set HEADWATER_DATA to where they are"
        )


def _has_catalog(environment: Environment) -> bool:
    return environment.catalog != "sqlite" or (environment.home / "lake" / "catalog.sqlite").exists()


def _name_artifacts_anew(environment: Environment) -> None:
    """Let MLflow look for its artifacts in this home."""
    database, artifacts = sqlite_path(environment.mlflow_uri), environment.mlflow_artifacts
    if database is None or not database.exists():
        return
    marker = f"/{artifacts.relative_to(environment.home)}/"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("begin immediate")
        known = {
            (table, column)
            for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall()
            for _, column, *_ in connection.execute(f"pragma table_info({table})").fetchall()
        }
        for table, column in _ARTIFACT_COLUMNS:
            if (table, column) not in known:
                continue
            for (old,) in connection.execute(f"select distinct {column} from {table}").fetchall():
                _, is_ours, rest = (old or "").rpartition(marker)
                if is_ours:
                    new = f"{artifacts.as_uri()}/{rest}"
                    connection.execute(f"update {table} set {column} = ? where {column} = ?", (new, old))


def environments_of(home: Path) -> list[str]:
    """The environments besides prod that are under the folder of a home."""
    folder = home / "environments"
    return sorted(os.listdir(folder)) if folder.is_dir() else []
