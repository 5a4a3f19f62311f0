"""MLflow, as much of it as assets need: candidates of a partition, and the versions that passed their gate.

Belongs here: runs, versions, aliases and artifacts of ML models kept as text. Not here: training, judging,
and which ML model exists. MLflow is imported when it is first used.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import dagster as dg
from pydantic import Field

from resources.database import place_of
from resources.environment import TELEMETRY_OFF, Environment
from resources.sqlite_address import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""Alias of the version for the newest partition that was registered."""

_PARTITION = "partition"
_DIGEST = "model_digest"
_FILE = "model/model.txt"
_ASKED_WRONGLY = "INVALID_PARAMETER_VALUE"
_NOT_FOUND = {"RESOURCE_DOES_NOT_EXIST", _ASKED_WRONGLY}


class RegistryError(LookupError):
    """The registry has no such model, no longer has its file, or cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Candidate:
    """A trained model of one partition, kept as an MLflow run."""

    name: str
    partition: str
    run_id: str
    digest: str
    text: str


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model, found by the partition that it was trained for."""

    name: str
    partition: str
    version: int
    run_id: str
    digest: str
    champion: bool


class ModelRegistry(dg.ConfigurableResource["ModelRegistry"]):
    """MLflow tracking and model registry in one SQL database; models are text files under its artifacts.

    Both are looked up by partition, so that building a partition again replaces and never duplicates. Equal
    bytes keep their version. Every method raises `RegistryError` when the database cannot be used.
    """

    uri: str = Field(description="SQLAlchemy URI of MLflow's tracking and registry database.")
    artifacts: str = Field(description="Folder of models and other artifacts; absolute and always the same.")

    @classmethod
    def of(cls, environment: Environment) -> "ModelRegistry":
        """The registry of `environment`."""
        return cls(uri=environment.mlflow_uri, artifacts=str(environment.mlflow_artifacts))

    @contextmanager
    def client(self, about: str) -> "Iterator[MlflowClient]":
        """MLflow's client, to ask about a model and partition, as `about` says.

        Raises:
            RegistryError: the database cannot be used; the message says what was asked about, and what to do.
        """
        _keep_mlflow_quiet()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield _connected(self.uri)
        except (SQLAlchemyError, MlflowException, OSError) as error:
            if isinstance(error, MlflowException) and error.error_code == _ASKED_WRONGLY:
                raise
            said = str(error).splitlines()[0]
            raise RegistryError(
                f"{about}: the model registry {place_of(self.uri)} cannot be used ({said}); put back a sound copy "
                "of its database, or move it away and materialize the candidates again"
            ) from error

    def log_candidate(
        self,
        name: str,
        partition: str,
        text: str,
        parameters: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> Candidate:
        """Keep a model trained for `partition`; an earlier candidate that was never registered is dropped.

        The same bytes with the same parameters are the same candidate, and keep their run. MLflow lets no parameter of
        a run change, so with others they are a candidate, and a run, of their own.

        Args:
            name: registered model's name, also the MLflow experiment.
            partition: key of the partition that the model is for.
            text: the model file.
            parameters: hyperparameters, for MLflow's comparison.
            tags: where it comes from, e.g. the Dagster run.
        """
        with self.client(f"{name} {partition}") as client:
            from mlflow.entities import Param, RunTag

            digest = hashlib.sha256(text.encode()).hexdigest()
            said = {key: str(value) for key, value in parameters.items()}
            kept = {version.run_id for version in self._versions(client, name)}
            runs = self._runs(client, name, partition)
            same = next((run for run in runs[:1] if _is(run, digest, said)), None)
            run = same or client.create_run(self._experiment(client, name), run_name=f"{name} {partition}")
            run_id = run.info.run_id
            client.log_batch(
                run_id,
                params=[Param(key, value) for key, value in said.items()],
                tags=[RunTag(key, value) for key, value in {**tags, _PARTITION: partition, _DIGEST: digest}.items()],
            )
            client.log_text(run_id, text, _FILE)
            client.set_terminated(run_id)
            for old in runs:
                if old.info.run_id not in kept | {run_id}:
                    client.delete_run(old.info.run_id)
            return Candidate(name, partition, run_id, digest, text)

    def candidate(self, name: str, partition: str) -> Candidate:
        """The newest candidate for `partition`.

        Raises:
            RegistryError: none was logged, or its file is gone or was changed.
        """
        with self.client(f"{name} {partition}") as client:
            runs = self._runs(client, name, partition)
            if not runs:
                raise RegistryError(
                    f"no candidate of {name} for {partition} in {place_of(self.uri)}: materialize that partition of "
                    "the model first"
                )
            run = runs[0]
            digest = run.data.tags[_DIGEST]
            return Candidate(name, partition, run.info.run_id, digest, self._text(run, name, partition, digest))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add metrics to the run of a candidate."""
        with self.client(f"run {run_id}") as client:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            client.log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])

    def register(self, candidate: Candidate) -> RegisteredVersion:
        """Make `candidate` the version of its partition, in place of another; the champion only moves
        forward.

        The alias `champion` goes to the newest partition registered so far, so that registering an old
        partition again leaves the champion where it is. Each partition's version also has the partition key
        as an alias. Equal bytes keep the version that they have, and the run that first gave them: whatever other
        parameters led to them did not change what serves.
        """
        with self.client(f"{candidate.name} {candidate.partition}") as client:
            found = self._versions(client, candidate.name)
            versions = [version for version in found if version.tags.get(_PARTITION) == candidate.partition]
            same = next((v for v in versions if v.tags.get(_DIGEST) == candidate.digest), None)
            version = same or client.create_model_version(
                candidate.name,
                source=f"{client.get_run(candidate.run_id).info.artifact_uri}/{Path(_FILE).parent}",
                run_id=candidate.run_id,
                tags={_PARTITION: candidate.partition, _DIGEST: candidate.digest},
            )
            client.set_registered_model_alias(candidate.name, candidate.partition, str(version.version))
            aliases = client.get_registered_model(candidate.name).aliases
            if candidate.partition == max(alias for alias in aliases if alias != CHAMPION):
                client.set_registered_model_alias(candidate.name, CHAMPION, str(version.version))
            for old in versions:
                if old.version != version.version:
                    client.delete_model_version(candidate.name, str(old.version))
                    if old.run_id and old.run_id != version.run_id:
                        client.delete_run(old.run_id)
        return self.registered(candidate.name, candidate.partition)

    def registered(self, name: str, partition: str = CHAMPION) -> RegisteredVersion:
        """The version registered for `partition`, by its alias; the champion when none is given.

        Raises:
            RegistryError: nothing is registered for it.
        """
        with self.client(f"{name} {partition}") as client:
            from mlflow.exceptions import MlflowException

            try:
                found = client.get_model_version_by_alias(name, partition)
            except MlflowException as error:
                if error.error_code not in _NOT_FOUND:
                    raise
                raise RegistryError(
                    f"no version of {name} is registered for {partition} in {place_of(self.uri)}: its candidate was "
                    "not built or did not pass its gate; look at the model's checks for that partition"
                ) from error
        return RegisteredVersion(
            name=name,
            partition=found.tags[_PARTITION],
            version=int(found.version),
            run_id=str(found.run_id),
            digest=found.tags[_DIGEST],
            champion=CHAMPION in found.aliases,
        )

    def load(self, version: RegisteredVersion) -> str:
        """The model file of `version`.

        Raises:
            RegistryError: it is gone or was changed since it was registered.
        """
        with self.client(f"{version.name} {version.partition}") as client:
            run = client.get_run(version.run_id)
            return self._text(run, version.name, version.partition, version.digest)

    def file(self, run_id: str) -> Path:
        """Where the model of a run is stored on this machine."""
        with self.client(f"run {run_id}") as client:
            uri = str(client.get_run(run_id).info.artifact_uri)
        return Path(unquote(urlsplit(uri).path)) / _FILE

    def _text(self, run: "Run", name: str, partition: str, digest: str) -> str:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        source = f"{run.info.artifact_uri}/{_FILE}"
        try:
            # As bytes: a file that was overwritten may be no text at all.
            with tempfile.TemporaryDirectory() as folder:
                content = Path(download_artifacts(artifact_uri=source, dst_path=folder)).read_bytes()
        except (OSError, MlflowException) as error:
            raise RegistryError(
                f"{name} {partition}: its file {source} is gone; materialize that partition of the model again"
            ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise RegistryError(
                f"{name} {partition}: its file {source} was changed after training; "
                "materialize that partition of the model again"
            )
        return content.decode()

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        folder = Path(self.artifacts) / name
        return client.create_experiment(name, artifact_location=folder.as_uri())

    def _runs(self, client: "MlflowClient", name: str, partition: str) -> "list[Run]":
        return list(
            client.search_runs(
                [self._experiment(client, name)],
                filter_string=f"tags.{_PARTITION} = '{partition}'",
                order_by=["attributes.start_time DESC"],
            )
        )

    def _versions(self, client: "MlflowClient", name: str) -> "list[ModelVersion]":
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        return list(client.search_model_versions(f"name = '{name}'"))


def _is(run: "Run", digest: str, parameters: Mapping[str, str]) -> bool:
    """Whether the run is of this very file and these parameters."""
    return run.data.tags.get(_DIGEST) == digest and run.data.params == parameters


@cache
def _connected(uri: str) -> "MlflowClient":
    """A client of the database at `uri`, which is created and migrated when it is new."""
    from mlflow import MlflowClient

    database = sqlite_path(uri)
    if database is None:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # The first question creates and migrates the database; two processes that ask at once break each other.
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    return client


def _keep_mlflow_quiet() -> None:
    """Before MLflow is imported: it decides on telemetry once, when it loads."""
    os.environ.update(TELEMETRY_OFF)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
