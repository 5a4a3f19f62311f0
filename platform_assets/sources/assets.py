"""Dagster definitions of the sources: from each declaration the upstream asset, the raw table and its checks.
 Belongs here: specs, the short body of the raw asset, and the events it leaves. Not here: what makes a
delivery good (`inspection.py`, `expectations.py`), how it is noticed (`arrival.py`), how it is stored
(`resources/warehouse.py`).
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import dagster as dg

from platform_assets.automation import WHEN_UPSTREAM_COMPLETE
from platform_assets.partitioned_checks import judged_materializations, partitioned_check, verdict
from platform_assets.sources import expectations
from platform_assets.sources.arrival import build_arrival_sensor
from platform_assets.sources.declaration import UNPARTITIONED, Source
from platform_assets.sources.inspection import Candidate, Problem, inspect
from platform_assets.table_metadata import table_metadata
from platform_assets.teams import team_of
from resources.environment import Environment
from resources.warehouse import Commit, LakeError, Replacement, TableName, Warehouse

DELIVERY = "delivery"
EXPECTATIONS = expectations.RULE

_PROBLEMS_SHOWN = 50

Event = dg.AssetMaterialization | dg.MaterializeResult[None] | dg.AssetCheckEvaluation | dg.Output[None]


def build_sources(sources: Sequence[Source]) -> dg.Definitions:
    """Upstream assets, raw tables with their checks, and one arrival sensor a team."""
    teams: dict[str, list[Source]] = {}
    for source in sources:
        teams.setdefault(source.team, []).append(source)
    return dg.Definitions(
        assets=[asset for source in sources for asset in (build_upstream(source), build_raw(source))],
        sensors=[build_arrival_sensor(team, theirs) for team, theirs in teams.items()],
    )


def build_upstream(source: Source) -> dg.AssetSpec:
    """The external asset that stands for the deliveries of the upstream system."""
    return dg.AssetSpec(
        source.upstream_key,
        description=f"Deliveries of {source.entity} into the landing zone, as {source.extension} files. "
        f"{source.description}",
        partitions_def=source.partitions,
        group_name=source.team,
        owners=[team_of(source.team).owner],
        kinds={source.file_format.removesuffix("l")},
        metadata=table_metadata(_columns(source), {}),
    )


def build_raw(source: Source) -> dg.AssetsDefinition:
    """The raw table: what was delivered and accepted, with a `partition_key` when it is partitioned."""
    spec = dg.AssetSpec(
        source.raw_key,
        deps=[source.upstream_key],
        description=f"{source.description} As delivered, once it was inspected and judged.",
        partitions_def=source.partitions,
        group_name=source.team,
        owners=[team_of(source.team).owner],
        kinds={"duckdb", "parquet"},
        code_version=_version(source),
        automation_condition=WHEN_UPSTREAM_COMPLETE,
        metadata={
            **table_metadata(_columns(source), _lineage(source)),
            "dagster/table_name": str(TableName.of_key(source.raw_key)),
        },
    )
    checks = build_checks(source)

    @dg.multi_asset(
        name="__".join(source.raw_key.path),
        specs=[spec],
        check_specs=checks,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def raw(context: dg.AssetExecutionContext, warehouse: Warehouse) -> Iterator[Event]:
        settings = Environment.current()
        partitions = context.partition_keys if source.partitions else [UNPARTITIONED]
        with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
            database = Path(folder) / "candidate.duckdb"
            candidate = inspect(source, settings.landing, partitions, database, settings.memory, settings.threads)
            judged = expectations.judge(candidate, settings.memory, settings.threads)
            candidate = replace(candidate, problems=(*candidate.problems, *judged))
            replacement = _store(candidate, warehouse, Commit(context.run.run_id, str(source.raw_key)))
        yield from _materializations(context, candidate, replacement)
        yield from _evaluations(context.instance, candidate, checks)
        if candidate.problems:
            raise refusal(candidate)
        yield from (dg.Output(None, output_name=check.get_python_identifier()) for check in checks)

    return raw


def build_checks(source: Source) -> list[dg.AssetCheckSpec]:
    """The blocking checks of a raw table; each is evaluated per partition."""
    descriptions = {
        DELIVERY: "Marker, files, columns, types, values, keys and time range are as the source declares.",
        EXPECTATIONS: "The declared Great Expectations suite holds for every row.",
    }
    if not source.expectations:
        del descriptions[EXPECTATIONS]
    return [
        partitioned_check(name, source.raw_key, source.partitions, description, blocking=True)
        for name, description in descriptions.items()
    ]


def refusal(candidate: Candidate) -> dg.Failure:
    """The failure that names everything that was refused and says what to do."""
    lines = [str(problem) for problem in candidate.problems]
    if len(lines) > _PROBLEMS_SHOWN:
        hidden = f"and {len(lines) - _PROBLEMS_SHOWN} more problems, see the checks of the asset"
        lines[_PROBLEMS_SHOWN:] = [hidden]
    stored = f"{len(candidate.accepted)} other partitions of this run were accepted and are stored"
    return dg.Failure(
        "\n".join(
            [
                f"source {candidate.source.name}: {len(candidate.refused)} partitions refused; "
                f"what was stored of them before is intact, {stored}.",
                *lines,
            ]
        ),
        allow_retries=False,
    )


def _store(candidate: Candidate, warehouse: Warehouse, commit: Commit) -> Replacement | None:
    source, accepted = candidate.source, candidate.accepted
    if not accepted:
        return None
    partitions = accepted if source.partitions else None
    try:
        return warehouse.replace_partitions(TableName.of_key(source.raw_key), partitions, candidate.relation, commit)
    except LakeError as error:
        raise dg.Failure(
            f"source {source.name}: {len(accepted)} accepted partitions, {accepted[0]} to {accepted[-1]}, "
            f"were not stored. {error}"
        ) from error


def _materializations(
    context: dg.AssetExecutionContext, candidate: Candidate, replacement: Replacement | None
) -> Iterator[Event]:
    source = candidate.source
    counted = "dagster/partition_row_count" if source.partitions else "dagster/row_count"
    facts: dict[str, dict[str, int | str]] = {
        partition: {
            counted: candidate.rows[partition],
            "files": len(candidate.deliveries[partition].files),
            "bytes": candidate.deliveries[partition].bytes,
            "upstream_data_version": candidate.fingerprints[partition].data_version,
            **({"lake_snapshot": replacement.snapshot} if replacement else {}),
        }
        for partition in candidate.accepted
    }
    if candidate.problems:
        # The output would record every partition of the run, the refused ones too.
        for partition, metadata in facts.items():
            yield dg.AssetMaterialization(source.raw_key, partition=partition, metadata=metadata)
        return
    for partition, metadata in facts.items():
        context.add_asset_metadata(metadata, source.raw_key, partition if source.partitions else None)
    yield dg.MaterializeResult(source.raw_key)


def _evaluations(
    instance: dg.DagsterInstance, candidate: Candidate, checks: Sequence[dg.AssetCheckSpec]
) -> Iterator[Event]:
    """One evaluation per check and partition; expectations are not evaluated on what was not readable."""
    source = candidate.source
    judged = judged_materializations(instance, source.raw_key, candidate.partitions if source.partitions else None)
    problems: dict[tuple[str, str], list[Problem]] = {}
    for problem in candidate.problems:
        name = EXPECTATIONS if problem.rule == EXPECTATIONS else DELIVERY
        problems.setdefault((name, problem.partition), []).append(problem)
    for partition in candidate.partitions:
        for check in checks:
            if check.name == EXPECTATIONS and (DELIVERY, partition) in problems:
                continue
            found = problems.get((check.name, partition), [])
            yield verdict(
                judged,
                check,
                partition if source.partitions else None,
                passed=not found,
                description="\n".join(map(str, found[:_PROBLEMS_SHOWN])) or None,
                metadata={"problems": len(found)} if found else {},
            )


def _columns(source: Source) -> list[dg.TableColumn]:
    return [
        dg.TableColumn(
            column.name,
            column.type,
            column.description,
            constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=source.key == (column.name,)),
        )
        for column in source.columns
    ]


def _lineage(source: Source) -> dict[str, list[dg.TableColumnDep]]:
    return {column.name: [dg.TableColumnDep(source.upstream_key, column.name)] for column in source.columns}


def _version(source: Source) -> str:
    """Changes when what is stored would change: another declaration of columns or of time."""
    declared = repr(([(column.name, column.type) for column in source.columns], source.event_time))
    return blake2b(declared.encode(), digest_size=6).hexdigest()
