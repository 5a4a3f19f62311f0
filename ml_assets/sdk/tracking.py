"""What MLflow is told of a candidate besides its file: receipts, signature, trials, measures, plots and card.

Belongs here: writing to the run that the model registry made, and reading what was decided to serve. Not here: runs,
versions and aliases themselves (`resources/model_registry.py`), computing anything. MLflow is imported when it is
first used.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from ml_assets.sdk.champion import ChampionError, Decision
from ml_assets.sdk.model_file import ModelFile, Signature
from ml_assets.sdk.search import Trial
from resources.ledger import Receipt
from resources.model_registry import CHAMPION, Candidate, ModelRegistry

_TRIAL_OF = "trial_of"
_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"


def log_origin(registry: ModelRegistry, candidate: Candidate, signature: Signature, receipt: Receipt) -> None:
    """Write down the features in their order, MLflow's signature of them, and the receipts of what was read."""
    from mlflow.types.schema import ColSpec, DataType, Schema

    inputs = Schema([ColSpec(DataType.double, name) for name in signature.features])
    outputs = Schema([ColSpec(DataType.double, "probability" if signature.task == "binary" else "prediction")])
    read = {
        "receipt": receipt.id,
        "code_version": receipt.code_version,
        "read": [asdict(one) for one in receipt.inputs],
    }
    with registry.client(_called(candidate)) as client:
        client.log_dict(
            candidate.run_id, {"inputs": inputs.to_dict(), "outputs": outputs.to_dict()}, "model/signature.json"
        )
        client.log_text(candidate.run_id, "\n".join(signature.features) + "\n", "features.txt")
        client.log_dict(candidate.run_id, read, "receipts.json")
        client.set_tag(candidate.run_id, "receipt", receipt.id)


def log_trials(registry: ModelRegistry, candidate: Candidate, metric: str, trials: Sequence[Trial]) -> None:
    """Keep the trials of a search as runs under the candidate's; those of candidates that are no more go with them."""
    from mlflow.entities import Metric, Param, RunTag

    mine, now = _called(candidate), int(time.time() * 1000)
    with registry.client(mine) as client:
        experiment = client.get_run(candidate.run_id).info.experiment_id
        before = client.search_runs([experiment], f"tags.{_TRIAL_OF} = '{mine}'")
        parents = {old.data.tags[_PARENT] for old in before}
        # A registered version keeps its run, and its trials, beside a newer candidate.
        kept = {one for one in parents - {candidate.run_id} if client.get_run(one).info.lifecycle_stage == "active"}
        for old in before:
            if old.data.tags[_PARENT] not in kept:
                client.delete_run(old.info.run_id)
        for number, trial in enumerate(trials):
            tags = {_TRIAL_OF: mine, _PARENT: candidate.run_id}
            run = client.create_run(experiment, tags=tags, run_name=f"{mine} trial {number}")
            client.log_batch(
                run.info.run_id,
                metrics=[Metric(metric, trial.error, now, 0)] if trial.error < float("inf") else [],
                params=[Param(name, str(value)) for name, value in trial.parameters.items()],
                tags=[RunTag("trial", str(number))],
            )
            client.set_terminated(run.info.run_id)


def log_evaluation(
    registry: ModelRegistry, run_id: str, metrics: Mapping[str, float], pictures: Mapping[str, bytes], card: str
) -> None:
    """Keep measures, plots by file name, and the model card, which is also the run's description."""
    registry.log_metrics(run_id, metrics)
    with registry.client(f"run {run_id}") as client, tempfile.TemporaryDirectory() as folder:
        for name, content in pictures.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run_id, folder, "plots")
        client.log_text(run_id, card, "model_card.md")
        client.set_tag(run_id, _NOTE, card)


def parameters(registry: ModelRegistry, run_id: str) -> dict[str, str]:
    """The parameters that a candidate was trained with, as MLflow keeps them."""
    with registry.client(f"run {run_id}") as client:
        return dict(client.get_run(run_id).data.params)


def serve(registry: ModelRegistry, name: str, version: int) -> None:
    """Let MLflow's alias of the champion follow the champion's asset."""
    with registry.client(f"{name} version {version}") as client:
        client.set_registered_model_alias(name, CHAMPION, str(version))


def decided_file(registry: ModelRegistry, name: str, decision: Decision) -> ModelFile:
    """The very model file that `decision` lets serve.

    Raises:
        ChampionError: the version of its partition has been replaced since.
        RegistryError: it is gone, or was changed.
        ModelMismatch: it is no model file.
    """
    version = registry.registered(name, decision.version_of)
    if version.digest != decision.model_digest:
        raise ChampionError(
            f"{name}: the version of {decision.version_of} has been replaced since it was decided on; materialize the "
            f"champion of {decision.version_of} again, or roll back anew where that was a rollback"
        )
    return ModelFile.of_text(registry.load(version), f"the version of {name} {decision.version_of}")


def run_url(registry: ModelRegistry, run_id: str) -> str:
    """The run's page on the tracking server; without one, the folder that holds its files."""
    if registry.uri.startswith(("http://", "https://")):
        with registry.client(f"run {run_id}") as client:
            experiment = client.get_run(run_id).info.experiment_id
        return f"{registry.uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
    return registry.file(run_id).parent.parent.as_uri()


def identity(registry: ModelRegistry, run_id: str, digest: str) -> dict[str, Any]:
    """What the web UI shows of a candidate or version, to find it in MLflow."""

    return {
        "MLflow run id": run_id,
        "MLflow run": dg.MetadataValue.url(run_url(registry, run_id)),
        "model digest": digest,
    }


def _called(candidate: Candidate) -> str:
    return f"{candidate.name} {candidate.partition}"
