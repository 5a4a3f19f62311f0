"""The assets of a project as the catalog and the lake know them: keys, columns, where each column comes from.

Belongs here: one declaration of every column of every table. Not here: how a column is computed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa

from ml_assets.sdk import champion
from ml_assets.sdk.declarations import Model, TrainingSet
from ml_assets.sdk.trainers.trainer import details_of
from platform_assets.table_metadata import table_metadata
from resources.warehouse import PARTITION_KEY

EVALUATION_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("kind", pa.string()),
        ("metric", pa.string()),
        ("error", pa.float64()),
        ("bias", pa.float64()),
        ("rows", pa.int64()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("confidence", pa.float64()),
        ("leaks", pa.string()),
        ("champion_of", pa.string()),
        ("model_digest", pa.string()),
        (PARTITION_KEY, pa.string()),
    ]
)
MONITOR_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("limit_value", pa.float64()),
        ("within", pa.bool_()),
        ("rows", pa.int64()),
        ("why", pa.string()),
        (PARTITION_KEY, pa.string()),
    ]
)
_DESCRIPTIONS = {
    "method": "What predicted: candidate, champion, or the name of a naive prediction.",
    "kind": "candidate, champion or baseline.",
    "metric": "Name of the error measure.",
    "error": "The error on the holdout partitions; smaller is better.",
    "bias": "Sum of the predictions over the sum of the labels; of the candidate.",
    "rows": "Rows judged.",
    "difference": "How much worse the candidate is than the champion, as a share of its error.",
    "low": "Low end of the interval of the difference.",
    "high": "High end of the interval of the difference.",
    "confidence": "Of the interval.",
    "leaks": "By feature, how many values were newer than their row; JSON, of the candidate.",
    "champion_of": "Partition whose version was the champion.",
    "model_digest": "SHA-256 of the model's file.",
    "serves_from": "Since when the version serves.",
    "action": "promoted or rolled back.",
    "version_of": "Partition that the version was trained for.",
    "version": "Number of the version in MLflow.",
    "replaced": "Partition whose version served before.",
    "reason": "Why, in words.",
    "prediction": "What the version predicts.",
    "subject": "The feature, the label, `prediction`, or the error measure.",
    "measure": "psi or error.",
    "value": "The measured value; null where it could not be judged.",
    "limit_value": "What it may be at most.",
    "within": "False where it is above that.",
    "why": "Why it could not be judged.",
    PARTITION_KEY: "Dagster partition key of the row.",
}


@dataclass(frozen=True)
class ProjectTables:
    """The asset keys of a model, and what the catalog shows of its tables."""

    model: Model

    @property
    def candidate(self) -> dg.AssetKey:
        """Trained models."""
        return self._key("candidate")

    @property
    def evaluation(self) -> dg.AssetKey:
        """How good they are."""
        return self._key("evaluation")

    @property
    def version(self) -> dg.AssetKey:
        """Those that passed the gate."""
        return self._key("version")

    @property
    def champion(self) -> dg.AssetKey:
        """Which of them serves when."""
        return self._key("champion")

    @property
    def predictions(self) -> dg.AssetKey:
        """What the champion predicts."""
        return self._key("predictions")

    @property
    def monitor(self) -> dg.AssetKey:
        """What became of that."""
        return self._key("monitor")

    def columns(self, key: dg.AssetKey) -> dict[str, Any]:
        """Columns and column lineage of one of the model's tables, for the catalog."""
        rows, features = self.model.training_set, self.model.feature_names
        read = _from(rows.key, (*features, rows.label))
        if key == self.evaluation:
            judged = ("error", "bias", "difference", "model_digest")
            return _metadata(EVALUATION_SCHEMA, dict.fromkeys(judged, read))
        if key == self.champion:
            return _metadata(champion.SCHEMA, {"model_digest": _from(self.evaluation, ["model_digest"])})
        if key == self.monitor:
            measured = [*read, *(_from(self.predictions, ["prediction"]) if self.model.batch else [])]
            return _metadata(MONITOR_SCHEMA, {"value": measured})
        by = {
            "model_digest": _from(self.champion, ["model_digest"]),
            "version_of": _from(self.champion, ["version_of"]),
        }
        # What the features are read from, and the model, which leads over its evaluation to what it learned from.
        known = [dep for name in features for dep in rows.features.lineage.get(name, ())]
        by |= dict.fromkeys(("prediction", *details_of(self.model.trainer)), [*known, *by["model_digest"]])
        return _described(
            [
                *(dg.TableColumn(name, description="Key of the entity.") for name in rows.keys),
                dg.TableColumn(rows.time, description="Time that the prediction is for."),
                dg.TableColumn("prediction", "DOUBLE", _DESCRIPTIONS["prediction"]),
                *(dg.TableColumn(name, "DOUBLE", said) for name, said in details_of(self.model.trainer).items()),
                dg.TableColumn("version_of", "VARCHAR", _DESCRIPTIONS["version_of"]),
                dg.TableColumn("model_digest", "VARCHAR", _DESCRIPTIONS["model_digest"]),
                dg.TableColumn(PARTITION_KEY, "VARCHAR", _DESCRIPTIONS[PARTITION_KEY]),
            ],
            by,
        )

    def _key(self, stage: str) -> dg.AssetKey:
        return dg.AssetKey([self.model.team, f"{self.model.name}_{stage}"])


def training_set_columns(declared: TrainingSet) -> dict[str, Any]:
    """Columns of the training set's table, for the catalog."""
    features = declared.features
    known = dict.fromkeys(features.known_at.values())
    return _described(
        [
            *(dg.TableColumn(name, description="Key of the entity.") for name in declared.keys),
            dg.TableColumn(declared.time, description="Time at which the features were known."),
            *(
                dg.TableColumn(name, kind, "Feature, as known at the row's time.")
                for name, kind in features.columns.items()
            ),
            *(dg.TableColumn(name, "TIMESTAMPTZ", "When the features of one source were known.") for name in known),
            dg.TableColumn(declared.label, "DOUBLE", "Label: what then happened."),
            dg.TableColumn(PARTITION_KEY, "VARCHAR", _DESCRIPTIONS[PARTITION_KEY]),
        ],
        features.lineage,
    )


def _from(table: dg.AssetKey, columns: Iterable[str]) -> list[dg.TableColumnDep]:
    return [dg.TableColumnDep(table, column) for column in columns]


def _metadata(schema: pa.Schema, lineage: dict[str, list[dg.TableColumnDep]]) -> dict[str, Any]:
    return _described([dg.TableColumn(one.name, str(one.type), _DESCRIPTIONS[one.name]) for one in schema], lineage)


def _described(columns: list[dg.TableColumn], lineage: Mapping[str, Sequence[dg.TableColumnDep]]) -> dict[str, Any]:
    return table_metadata(columns, lineage)
