"""The model card: what one version is, what it learned from, how good it is and what it is not for, as Markdown.

Belongs here: the words. Not here: any number that is computed only for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ml_assets.sdk.declarations import Model
from ml_assets.sdk.folds import Evaluation, Span
from ml_assets.sdk.trainers.trainer import Parameters


@dataclass(frozen=True)
class Provenance:
    """Where a version comes from: everything that is needed to make it again."""

    partition: str
    model_digest: str
    dagster_run_id: str
    receipts: Sequence[str]


def model_card(
    model: Model, span: Span, parameters: Parameters, found: Evaluation, refused: Sequence[str], origin: Provenance
) -> str:
    """The card of the version of one partition.

    After Mitchell et al., Model Cards for Model Reporting (2019): details, use, data, measures, caveats.
    """
    rows = model.training_set
    methods = [("candidate", found.evidence.error), *found.evidence.baselines.items()]
    if found.champion_error is not None:
        methods.append(("champion before", found.champion_error))
    important = sorted(found.importance.items(), key=lambda item: item[1], reverse=True)
    uses = [*(["batch predictions"] if model.batch else []), *(["online scoring"] if model.online else [])]
    lines = [
        f"# {model.registered_name}, {origin.partition}",
        "",
        model.description,
        "",
        "## Details",
        "",
        f"- Owner: team {model.team}",
        f"- Framework: {model.trainer.framework}, task: {rows.task}, seed: {model.seed}",
        f"- SHA-256 of the model file: `{origin.model_digest}`",
        f"- Dagster run: `{origin.dagster_run_id}`",
        f"- Used for: {', '.join(uses) or 'nothing yet'}",
        "",
        "## Data",
        "",
        f"{rows.description}",
        "",
        f"- Learned from {rows.key.to_user_string()} {_span(span.training)}"
        + (f", stopped early on {_span(span.validation)}" if span.validation else ""),
        f"- Judged on {_span(span.holdout)}, {found.rows:,} rows that it had not seen",
        f"- Label: `{rows.label}`",
        f"- Receipts of what was read: {', '.join(f'`{one}`' for one in origin.receipts) or 'none'}",
        "",
        "## Measures",
        "",
        f"{model.measure.name}: {model.measure.description} Smaller is better.",
        "",
        f"| method | {model.measure.name} |",
        "|---|---|",
        *(f"| {name} | {error:.4f} |" for name, error in methods),
        "",
        f"- Sum of predictions over sum of labels: {found.bias:.3f}",
        *([f"- Against the champion before: {found.evidence.champion}"] if found.evidence.champion else []),
        f"- Gate: {'refused: ' + '; '.join(refused) if refused else 'passed'}",
        "",
        "## Features",
        "",
        "| feature | growth of the error when shuffled |",
        "|---|---|",
        *(f"| {name} | {share:+.1%} |" for name, share in important),
        "",
        "## Parameters",
        "",
        "| parameter | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in sorted(parameters.items())),
        "",
        "## Caveats",
        "",
        f"It knows nothing of what happened after {span.holdout[-1]}, and was judged only on entities like those in "
        "that holdout.",
        "",
    ]
    return "\n".join(lines)


def _span(partitions: Sequence[str]) -> str:
    return partitions[0] if len(partitions) == 1 else f"{partitions[0]}..{partitions[-1]}"
