"""Small homes as earlier code left them, kept as text, so that later code can be tried on them.

Belongs here: writing a home as text and back, and making the one to keep. Run as a program by the code whose home is to
be kept, it makes one: python -m tests.homes.kept FOLDER
"""

import base64
import json
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import dagster as dg
import yaml

HOME, EXTENSIONS = "{HOME}", "extensions"
_DATABASES = (".sqlite", ".db")
_FILES = "files.json"
_INDEX = "index.db"
"""The part of Dagster's event log that says what was materialized; the logs of single runs are not kept."""


def keep(home: Path, folder: Path) -> None:
    """Write what `home` stores into `folder`: databases as SQL, files as base64, the home's own path as {HOME}."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home)
        is_log = name.parts[:2] == ("dagster", "events") and path.name != _INDEX
        if name.parts[0] == EXTENSIONS or not path.is_file() or path.suffix == ".lock" or is_log:
            continue
        if path.suffix in _DATABASES:
            with closing(sqlite3.connect(path)) as database:
                text = "\n".join(database.iterdump()).replace(str(home), HOME) + "\n"
            (folder / f"{'-'.join(name.parts)}.sql").write_text(f"-- {name}\n{text}")
        elif not path.name.endswith(("-wal", "-shm")) and name.parts[0] in ("lake", "mlflow"):
            files[str(name)] = base64.b64encode(path.read_bytes()).decode()
    (folder / _FILES).write_text(json.dumps(files, indent=0) + "\n")


def restore(folder: Path, home: Path) -> None:
    """Make `home` what `keep` wrote."""
    for script in sorted(folder.glob("*.sql")):
        first, _, text = script.read_text().partition("\n")
        path = home / first.removeprefix("-- ")
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.executescript(text.replace(HOME, str(home)))
            database.execute("pragma journal_mode = wal")
    for name, content in json.loads((folder / _FILES).read_text()).items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


def make(home: Path) -> None:
    """Two days of the test's shop, built by runs of a Dagster instance in `home`, and the receipt of a model's file."""
    from platform_assets.instance.services import instance_settings
    from platform_assets.partition_checker.stored import kept_in_files
    from resources.environment import Environment
    from resources.ledger import Receipt, StoredFile
    from tests.platform_assets.partition_checker.shop import DAYS, Shop

    os.environ["HEADWATER_HOME"] = str(home)
    environment = Environment.current()
    environment.dagster_home.mkdir(parents=True)
    (environment.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(environment)))
    with dg.DagsterInstance.from_config(str(environment.dagster_home)) as instance:
        shop = Shop(environment, instance)
        assert shop.build("sales", "evens", "sums", first=DAYS[0], last=DAYS[1]).success
    model = environment.mlflow_artifacts / "model" / "run" / "artifacts" / "model" / "model.txt"
    model.parent.mkdir(parents=True)
    model.write_text("a model\n")
    # Its receipt vouches for the path of its file, which cannot be templated: the home was in /srv/headwater once.
    file = StoredFile(f"/srv/headwater/{model.relative_to(home)}", model.stat().st_size)
    kept = {**vars(kept_in_files([model])), "files": (file,)}
    shop.ledger.record([Receipt("shop/model", "", "v1", (), environment="prod", run_id="run", **kept)])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch) / "home")
        keep(Path(scratch) / "home", Path(sys.argv[1]))
