"""dbt: building models of the project over the lake, and its manifest.

Belongs here: the dbt process, its environment, its manifest and when that is stale. Not here: which models are
built for which pairs and what their events mean (`platform_assets/dbt_models/`).
"""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml
from packaging.version import Version
from pydantic import Field

from resources import dbt_server
from resources.environment import REPOSITORY, TELEMETRY_OFF, Environment

if TYPE_CHECKING:
    from dagster_dbt import DagsterDbtTranslator
    from dagster_dbt.core.dbt_cli_invocation import DbtCliInvocation

PROJECT = REPOSITORY / "dbt"
_SIGNATURE = "project.sha"


class DbtError(RuntimeError):
    """dbt failed as a whole; the message carries what dbt said."""


class Dbt(dg.ConfigurableResource["Dbt"]):
    """The dbt project over one environment's lake."""

    project: str = Field(default=str(PROJECT), description="Folder with dbt_project.yml and profiles.yml.")
    target: str = Field(description="Folder of the manifest, compiled SQL and partial-parse state.")
    variables: dict[str, str] = Field(description="What profiles.yml reads: where the lake is and its limits.")
    run_events: str = Field(default="", description="Where Dagster keeps the events of runs; see run_fence.py.")

    @classmethod
    def of(cls, environment: Environment) -> "Dbt":
        """The dbt project over the lake of `environment`."""
        return cls(
            target=str(environment.dbt_target),
            variables={
                "HEADWATER_LAKE_CATALOG": environment.lake_catalog,
                "HEADWATER_LAKE_DATA": environment.data,
                "HEADWATER_EXTENSIONS": str(environment.extensions),
                "HEADWATER_SPILL": str(environment.home / "spill"),
                "HEADWATER_DUCKDB_THREADS": str(environment.threads),
                "HEADWATER_DUCKDB_MEMORY_LIMIT": environment.memory,
            },
            run_events=environment.run_events,
        )

    def of_folder(self, project: Path, target: Path) -> "Dbt":
        """The dbt project in another folder, over the same lake; what it compiles is kept in the folder `target`."""
        return self.model_copy(update={"project": str(project), "target": str(target)})

    def manifest(self) -> Mapping[str, Any]:
        """The project's manifest with compiled SQL; dbt compiles it anew only when a file of the project changed.

        Raises:
            DbtError: the project does not compile; the message is dbt's.
        """
        target = Path(self.target)
        with _locked(target / ".lock"):
            signature = self._signature()
            known = target / _SIGNATURE
            if not known.exists() or known.read_text() != signature:
                self._compile()
                known.write_text(signature)
        return dict(json.loads((target / "manifest.json").read_bytes()))

    @property
    def project_variables(self) -> Mapping[str, Any]:
        """The `vars` of dbt_project.yml."""
        found: Mapping[str, Any] = yaml.safe_load((Path(self.project) / "dbt_project.yml").read_text()).get("vars", {})
        return found

    @contextmanager
    def build(
        self,
        arguments: Sequence[str],
        manifest: Mapping[str, Any],
        translator: "DagsterDbtTranslator",
        run_id: str,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Iterator["DbtCliInvocation"]:
        """Start `dbt build` with `arguments` in a process of its own; its events are read from what is yielded.

        `variables` are added to the environment of the process.

        Its artifacts live in a folder of their own, kept only if dbt fails. Partial-parse state is reused.
        """
        # It takes longer to import than most commands take, which only look at a project that is compiled.
        from dagster_dbt.core.dbt_cli_invocation import PARTIAL_PARSE_FILE_NAME, DbtCliInvocation

        target = Path(self.target) / "runs" / f"{run_id}-{os.getpid()}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(self.target) / PARTIAL_PARSE_FILE_NAME, target / PARTIAL_PARSE_FILE_NAME)
        # Not DbtCliResource.cli: it imports dbt and opens its own connection in this process too, for metadata
        # that the lake's catalog answers, which doubles the time a small run takes.
        invocation = DbtCliInvocation.run(
            args=[*_command(), "build", *arguments],
            # The dbt process waits for its turn to write by itself (`dbt_turn.py`).
            env=self._process_variables(target)
            | {"DBT_LOG_FORMAT": "json", "HEADWATER_RUN_ID": run_id, "HEADWATER_LAKE_WRITER": "1"}
            | {"HEADWATER_RUN_EVENTS": self.run_events}
            | dict(variables),
            manifest=manifest,
            dagster_dbt_translator=translator,
            project_dir=Path(self.project),
            target_path=target,
            raise_on_error=False,
            context=None,
            adapter=None,
            cli_version=Version(importlib.metadata.version("dbt-core")),
        )
        try:
            yield invocation
        finally:
            # Whoever gave up reading must not leave a writer behind.
            invocation.process.terminate()
            invocation.process.wait()
        if invocation.process.returncode == 0:
            shutil.rmtree(target)

    def _compile(self) -> None:
        # Compiled with the run-independent variables only, so that runs can reuse what was parsed.
        outcome = subprocess.run(
            [*_command(), "compile", "--log-level", "warn", "--no-use-colors", "--select", "resource_type:model"],
            cwd=self.project,
            env=self._process_variables(Path(self.target)),
            capture_output=True,
            text=True,
        )
        if outcome.returncode:
            raise DbtError(f"dbt cannot compile {self.project}:\n{(outcome.stdout + outcome.stderr).strip()}")
        if outcome.stdout.strip():
            # Said once: until a file of the project changes it is not compiled again.
            logging.getLogger(__name__).warning("dbt says of %s:\n%s", self.project, outcome.stdout.strip())

    def _signature(self) -> str:
        """Changes with any file of the project, the profile's variables, and dbt itself."""
        root = Path(self.project)
        digest = hashlib.sha256(json.dumps(self.variables, sort_keys=True).encode())
        digest.update(importlib.metadata.version("dbt-core").encode())
        for path in sorted(path for path in root.rglob("*") if path.suffix in (".sql", ".yml", ".md", ".csv")):
            stat = path.stat()
            digest.update(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _process_variables(self, target: Path) -> dict[str, str]:
        return {
            **os.environ,
            **TELEMETRY_OFF,
            **self.variables,
            "PYTHONUNBUFFERED": "1",
            "DBT_PROJECT_DIR": self.project,
            "DBT_PROFILES_DIR": self.project,
            "DBT_TARGET_PATH": str(target),
            "DBT_LOG_PATH": str(target),
        }


def _command() -> list[str]:
    """The dbt of this very Python environment, whatever PATH says; the one that has started already, if there is."""
    return dbt_server.command() or [str(Path(sys.executable).with_name("dbt"))]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
