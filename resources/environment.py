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

REPOSITORY = Path(__file__).resolve().parents[1]

SETTINGS: Mapping[str, str] = {
    "HEADWATER_HOME": "Folder of all state; default: .headwater beside the code.",
    "HEADWATER_ENV": "Environment: prod (default), dev-<name> or pr-<n>; each has its own storage.",
    "HEADWATER_CATALOG": "Lake catalog: sqlite (default) or postgresql://user@host:port/database.",
    "HEADWATER_DATA": "Folder or object-store URL of the lake's Parquet files; default: <home>/lake/data.",
    "HEADWATER_DAGSTER_STORAGE": "Dagster's storage: sqlite (default) or postgresql://user@host:port/database.",
    "HEADWATER_ONLINE_STORE": "Online feature store: sqlite (default), a SQLite file, or redis://user@host:port/number.",
    "HEADWATER_THREADS": "DuckDB threads per process; default 2.",
    "HEADWATER_MEMORY": "DuckDB memory limit per process; default 1500MB.",
    "HEADWATER_PORT": "Port of the web UI on 127.0.0.1; default 3000.",
}

_ENVIRONMENT_NAMES = {
    "prod": re.compile(r"prod"),
    "dev": re.compile(r"dev-[a-z0-9][a-z0-9-]*"),
    "pr": re.compile(r"pr-[0-9]+"),
}

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
    port: int

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
        root = Path(given.get("HEADWATER_HOME", REPOSITORY / ".headwater")).expanduser().absolute()
        home = root if name == "prod" else root / "environments" / name
        return cls(
            name=name,
            home=home,
            catalog=_database("HEADWATER_CATALOG", given),
            data=given.get("HEADWATER_DATA", str(home / "lake" / "data")),
            dagster_storage=_database("HEADWATER_DAGSTER_STORAGE", given),
            online_store=_online_store(given.get("HEADWATER_ONLINE_STORE", "sqlite"), home),
            threads=_whole("HEADWATER_THREADS", given, default=2),
            memory=_memory(given.get("HEADWATER_MEMORY", "1500MB")),
            port=_whole("HEADWATER_PORT", given, default=3000),
        )

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
            return f"sqlite:///{self.home / 'lake' / 'ledger.sqlite'}"
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
    def dbt_target(self) -> Path:
        """Where dbt's manifest and partial-parse state are kept."""
        return self.home / "dbt"

    @property
    def mlflow_uri(self) -> str:
        """Tracking and registry backend of MLflow."""
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.sqlite'}"

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
            "HEADWATER_PORT": str(self.port),
            "DAGSTER_HOME": str(self.dagster_home),
        }


def _unknown(kind: str, name: str, allowed: list[str], setting: str | None = None) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    where = f" in {setting}" if setting else ""
    return f"unknown {kind} {name!r}{where}{hint}; allowed: {', '.join(allowed)}"


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
        return str(Path(value).expanduser().absolute())
    parts = urlsplit(value)
    if parts.password or "password" in parse_qs(parts.query):
        raise SettingError("HEADWATER_ONLINE_STORE carries a password; leave it out and set REDISCLI_AUTH instead")
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise SettingError(
            f"HEADWATER_ONLINE_STORE is {value!r}; allowed: sqlite, a path, or redis://user@host:port/number"
        )
    return value


def _whole(setting: str, given: Mapping[str, str], default: int) -> int:
    value = given.get(setting, str(default))
    if not value.isdigit() or int(value) < 1:
        raise SettingError(f"{setting} is {value!r}; give a whole number of at least 1")
    return int(value)


def _memory(value: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?(MB|GB|MiB|GiB)", value):
        raise SettingError(f"HEADWATER_MEMORY is {value!r}; give a size such as 1500MB or 2GB")
    return value
