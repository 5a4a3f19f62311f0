"""Where this installation keeps its state and reaches its services: every setting, read in one place.

Belongs here: names, defaults and validation of the `HEADWATER_*` variables. Not here: opening any of what they
name (the resource that uses it does).
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from resources.sqlite_address import sqlite_uri

REPOSITORY = Path(__file__).resolve().parents[1]

SETTINGS: Mapping[str, str] = {
    "HEADWATER_HOME": "Folder of all state; default: .headwater beside the code.",
    "HEADWATER_ENV": "Environment: prod (default), dev-<name> or pr-<n>; each has its own storage, under the home.",
    "HEADWATER_CATALOG": "Lake catalog: sqlite (default) or postgresql://user@host:port/database.",
    "HEADWATER_DATA": "Folder of the lake's Parquet files; default: <home>/lake/data.",
    "HEADWATER_DAGSTER_STORAGE": "Dagster's storage: sqlite (default) or postgresql://user@host:port/database.",
    "HEADWATER_ONLINE_STORE": "Online feature store: sqlite (default), a SQLite file, or redis://user@host:port/number.",
    "HEADWATER_THREADS": "DuckDB threads per process; default 2.",
    "HEADWATER_MEMORY": "DuckDB memory limit per process; default 1500MB.",
    "HEADWATER_LONGEST_LINE": "Longest line of a delivered file, and longest value of a Parquet file; default 2MB.",
    "HEADWATER_LARGEST_FILE": "Largest delivered file, once it is decompressed; default 8GB.",
    "HEADWATER_OPEN_PAGES": "Most that the open pages of a delivered Parquet file may take; default 256MB.",
    "HEADWATER_PORT": "Port of the web UI on 127.0.0.1; default 3000.",
    "HEADWATER_WEB_ORIGINS": "Addresses at which a proxy shows the web UI, separated by commas: https://name[:port].",
    "HEADWATER_RUN_START_SECONDS": "How long a run may take to start before it is given up; default 600.",
}

_ENVIRONMENT_NAMES = {
    "prod": re.compile(r"prod"),
    "dev": re.compile(r"dev-[a-z0-9][a-z0-9-]*"),
    "pr": re.compile(r"pr-[0-9]+"),
}

_UNUSABLE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no folder's name may hold: backslash, control characters, bytes that are no text."""

TELEMETRY_OFF: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FEAST_USAGE": "false",
}
"""Variables that keep every dependency from reporting home; each process that we start gets them."""


class SettingError(ValueError):
    """A setting that cannot be used; the message names it and says what is allowed."""


@dataclass(frozen=True)
class Limits:
    """How much of a delivered file may have to be in memory or on disk before it is refused, in bytes."""

    line_bytes: int = 2_000_000
    file_bytes: int = 8_000_000_000
    page_bytes: int = 256_000_000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Environment:
    """One environment's storage and services; `Environment.current()` is the process's own."""

    name: str
    home: Path
    catalog: str
    data: str
    dagster_storage: str
    online_store: str
    threads: int
    memory: str
    limits: Limits
    port: int
    web_origins: tuple[str, ...]
    run_start_seconds: int

    @classmethod
    def current(cls) -> "Environment":
        """The environment that the process's `HEADWATER_*` variables describe."""
        return cls.of(os.environ)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Environment":
        """Read the settings from `variables`.

        Raises:
            SettingError: an unknown or malformed setting, named, with what is allowed.
        """
        given = {name: value for name, value in variables.items() if name.startswith("HEADWATER_") and value}
        for name in given:
            if name not in SETTINGS:
                raise SettingError(_unknown("setting", name, list(SETTINGS)))
        name = given.get("HEADWATER_ENV", "prod")
        if not any(pattern.fullmatch(name) for pattern in _ENVIRONMENT_NAMES.values()):
            raise SettingError(_unknown("environment", name, ["prod", "dev-<name>", "pr-<n>"], "HEADWATER_ENV"))
        root = _folder("HEADWATER_HOME", given.get("HEADWATER_HOME", str(REPOSITORY / ".headwater")))
        home = root if name == "prod" else root / "environments" / name
        found = cls(
            name=name,
            home=home,
            catalog=_database("HEADWATER_CATALOG", given),
            data=_data(given.get("HEADWATER_DATA", str(home / "lake" / "data"))),
            dagster_storage=_database("HEADWATER_DAGSTER_STORAGE", given),
            online_store=_online_store(given.get("HEADWATER_ONLINE_STORE", "sqlite"), home),
            threads=_whole("HEADWATER_THREADS", given, default=2),
            memory=_memory(given.get("HEADWATER_MEMORY", "1500MB")),
            limits=Limits(
                line_bytes=_bytes("HEADWATER_LONGEST_LINE", given, Limits.line_bytes),
                file_bytes=_bytes("HEADWATER_LARGEST_FILE", given, Limits.file_bytes),
                page_bytes=_bytes("HEADWATER_OPEN_PAGES", given, Limits.page_bytes),
            ),
            port=_whole("HEADWATER_PORT", given, default=3000, most=65535),
            web_origins=_origins("HEADWATER_WEB_ORIGINS", given),
            run_start_seconds=_whole("HEADWATER_RUN_START_SECONDS", given, default=600),
        )
        _refuse_shared_places(found)
        return found

    @property
    def landing(self) -> Path:
        """Where upstream systems drop their partitions."""
        return self.home / "landing"

    @property
    def lake_catalog(self) -> str:
        """What follows `ducklake:` when the lake is attached."""
        if self.catalog == "sqlite":
            return f"sqlite:{self.home / 'lake' / 'catalog.sqlite'}"
        return f"postgres:{self.catalog}"

    @property
    def ledger_uri(self) -> str:
        """SQLAlchemy URI of the receipts: beside the lake's catalog, in SQLite or the same PostgreSQL."""
        if self.catalog == "sqlite":
            return sqlite_uri(self.home / "lake" / "ledger.sqlite")
        return self.catalog

    @property
    def extensions(self) -> Path:
        """Where DuckDB's extensions are unpacked."""
        return self.home / "extensions"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance folder, holding `dagster.yaml`."""
        return self.home / "dagster"

    @property
    def services_lock(self) -> Path:
        """The file that the processes of the web UI hold locked for as long as one of them lives."""
        return self.dagster_home / "services.lock"

    @property
    def run_events(self) -> str:
        """Where Dagster keeps the events of runs: a folder of SQLite files, or its PostgreSQL."""
        return str(self.dagster_home / "events") if self.dagster_storage == "sqlite" else self.dagster_storage

    @property
    def dbt_target(self) -> Path:
        """Where dbt's manifest and partial-parse state are kept."""
        return self.home / "dbt"

    @property
    def mlflow_uri(self) -> str:
        """Tracking and registry backend of MLflow."""
        return sqlite_uri(self.home / "mlflow" / "mlflow.sqlite")

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow keeps models and plots."""
        return self.home / "mlflow" / "artifacts"

    @property
    def feast(self) -> Path:
        """Feast's folder, holding `feature_store.yaml` and the registry."""
        return self.home / "feast"

    @property
    def notebooks(self) -> Path:
        """Where people's notebooks are kept, the copy of the tutorial among them."""
        return self.home / "notebooks"

    @property
    def jupyter(self) -> Path:
        """JupyterLab's own settings and state."""
        return self.home / "jupyter"

    @property
    def variables(self) -> dict[str, str]:
        """What a child process needs to run in this very environment, telemetry off."""
        return {
            **TELEMETRY_OFF,
            # Threads of numerical libraries that wait should sleep: two cores are shared by several processes.
            "OMP_WAIT_POLICY": "PASSIVE",
            # The partitions that a step built are recorded together (resources/event_log.py).
            "DAGSTER_EVENT_BATCH_SIZE": "10000",
            "HEADWATER_HOME": str(self.home if self.name == "prod" else self.home.parents[1]),
            "HEADWATER_ENV": self.name,
            "HEADWATER_CATALOG": self.catalog,
            "HEADWATER_DATA": self.data,
            "HEADWATER_DAGSTER_STORAGE": self.dagster_storage,
            "HEADWATER_ONLINE_STORE": self.online_store,
            "HEADWATER_THREADS": str(self.threads),
            "HEADWATER_MEMORY": self.memory,
            "HEADWATER_LONGEST_LINE": f"{self.limits.line_bytes}B",
            "HEADWATER_LARGEST_FILE": f"{self.limits.file_bytes}B",
            "HEADWATER_OPEN_PAGES": f"{self.limits.page_bytes}B",
            "HEADWATER_PORT": str(self.port),
            "HEADWATER_WEB_ORIGINS": ",".join(self.web_origins),
            "HEADWATER_RUN_START_SECONDS": str(self.run_start_seconds),
            "DAGSTER_HOME": str(self.dagster_home),
        }


def _unknown(kind: str, name: str, allowed: list[str], setting: str | None = None) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    where = f" in {setting}" if setting else ""
    return f"unknown {kind} {name!r}{where}{hint}; allowed: {', '.join(allowed)}"


def _folder(setting: str, value: str) -> Path:
    """The absolute path that a setting gives for a file or a folder."""
    if _UNUSABLE.search(value):
        # DuckDB takes a backslash for the end of a folder's name; the others break lines of settings and logs.
        raise SettingError(
            f"{setting} is {value!r}; a backslash or a control character cannot be part of it, any other character can"
        )
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise SettingError(f"{setting} is {value!r}: {error}; give the folder without the ~") from error


def _data(value: str) -> str:
    if "://" in value:
        raise SettingError(
            f"HEADWATER_DATA is {value!r}; object stores cannot be used yet: give a folder, which may be a mounted one"
        )
    return str(_folder("HEADWATER_DATA", value))


def _refuse_shared_places(environment: Environment) -> None:
    """Let no environment but prod have a place by name: it would be prod's too, or another environment's.

    A Redis is no such place: every key in it begins with the environment's name.
    """
    if environment.name == "prod":
        return
    home = environment.home
    named = {
        "HEADWATER_CATALOG": environment.catalog != "sqlite",
        "HEADWATER_DATA": environment.data != str(home / "lake" / "data"),
        "HEADWATER_DAGSTER_STORAGE": environment.dagster_storage != "sqlite",
        "HEADWATER_ONLINE_STORE": "://" not in environment.online_store
        and environment.online_store != str(home / "online" / "rows.sqlite"),
    }
    wrong = [setting for setting, is_named in named.items() if is_named]
    if wrong:
        raise SettingError(
            f"{', '.join(wrong)} cannot be set with HEADWATER_ENV={environment.name}: no place is derived from it for "
            f"each environment yet, so that two would write to one. Unset {'it' if len(wrong) == 1 else 'them'}, and "
            f"{environment.name} keeps everything of its own in {home}; or give it a HEADWATER_HOME and places of its "
            "own without HEADWATER_ENV"
        )


def _database(setting: str, given: Mapping[str, str]) -> str:
    value = given.get(setting, "sqlite")
    if value == "sqlite":
        return value
    parts = urlsplit(value)
    if parts.password:
        raise SettingError(f"{setting} carries a password; leave it out and set PGPASSWORD or ~/.pgpass instead")
    if parts.scheme != "postgresql" or not parts.path.strip("/"):
        raise SettingError(f"{setting} is {value!r}; allowed: sqlite, or postgresql://user@host:port/database")
    return value


def _online_store(value: str, home: Path) -> str:
    """The address that `resources/feature_store/online_rows.py` opens."""
    if value == "sqlite":
        return str(home / "online" / "rows.sqlite")
    if "://" not in value:
        return str(_folder("HEADWATER_ONLINE_STORE", value))
    parts = urlsplit(value)
    if parts.password or "password" in parse_qs(parts.query):
        raise SettingError("HEADWATER_ONLINE_STORE carries a password; leave it out and set REDISCLI_AUTH instead")
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise SettingError(
            f"HEADWATER_ONLINE_STORE is {value!r}; allowed: sqlite, a path, or redis://user@host:port/number"
        )
    return value


def _whole(setting: str, given: Mapping[str, str], default: int, most: int | None = None) -> int:
    value = given.get(setting, str(default))
    if not (value.isascii() and value.isdigit()) or int(value) < 1 or (most is not None and int(value) > most):
        allowed = "of at least 1" if most is None else f"from 1 to {most}"
        raise SettingError(f"{setting} is {value!r}; give a whole number {allowed}")
    return int(value)


def _origins(setting: str, given: Mapping[str, str]) -> tuple[str, ...]:
    origins = tuple(origin.strip().lower() for origin in given.get(setting, "").split(",") if origin.strip())
    for origin in origins:
        if not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?", origin):
            raise SettingError(
                f"{setting} names {origin!r}; give what a browser shows before the path, such as "
                "https://headwater.example, several separated by commas"
            )
    # A browser leaves out the port that the scheme implies.
    usual = {"https": ":443", "http": ":80"}
    return tuple(origin.removesuffix(usual[origin.partition(":")[0]]) for origin in origins)


def _memory(value: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?(MB|GB|MiB|GiB)", value):
        raise SettingError(f"HEADWATER_MEMORY is {value!r}; give a size such as 1500MB or 2GB")
    return value


def _bytes(setting: str, given: Mapping[str, str], default: int) -> int:
    units = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    value = given.get(setting, f"{default}B")
    found = re.fullmatch(r"(\d+)(\w+)", value)
    if not found or found[2] not in units or not int(found[1]):
        raise SettingError(f"{setting} is {value!r}; give a size such as 500kB, 2MB or 8GB")
    return int(found[1]) * units[found[2]]
