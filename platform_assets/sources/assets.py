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

from platform_assets.automation import when_upstream_complete
from platform_assets.backfills import ONE_RUN
from platform_assets.completeness import Completeness, Storage
from platform_assets.partition_checker.build import Build
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitioned_checks import judged_materializations, partitioned_check, verdict
from platform_assets.sources import expectations
from platform_assets.sources.arrival import build_arrival_sensor
from platform_assets.sources.declaration import UNPARTITIONED, Source
from platform_assets.sources.inspection import Candidate, Problem, inspect
from platform_assets.table_metadata import table_metadata
from platform_assets.teams import team_of
from resources.environment import Environment
from resources.warehouse import Commit, LakeError, TableName, Warehouse

DELIVERY = "delivery"
EXPECTATIONS = expectations.RULE

_PROBLEMS_SHOWN = 50

Event = dg.MaterializeResult[None] | dg.AssetCheckEvaluation | dg.Output[None]


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
        metadata=table_metadata(_columns(source), {}) | _completeness(source, "upstream").metadata,
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
        metadata={
            **table_metadata(_columns(source), _lineage(source)),
            "dagster/table_name": str(TableName.of_key(source.raw_key)),
            **_completeness(source, "table").metadata,
        },
    )
    spec = spec.replace_attributes(automation_condition=when_upstream_complete(spec))
    checks = build_checks(source)

    @dg.multi_asset(
        name="__".join(source.raw_key.path),
        specs=[spec],
        check_specs=checks,
        backfill_policy=ONE_RUN["platform_assets"],
    )
    def raw(context: dg.AssetExecutionContext, warehouse: Warehouse, checker: PartitionChecker) -> Iterator[Event]:
        with checker.building(context) as build:
            computed: set[str] = set()
            for wave in build.waves():
                partitions = [_delivered_as(partition) for partition in wave[source.raw_key]]
                yield from _load(source, partitions, build, warehouse, checks)
                computed.update(partitions)
            asked = context.partition_keys if source.partitions else [UNPARTITIONED]
            yield from _as_before(context.instance, source, [key for key in asked if key not in computed], checks)
            yield from build.outputs()
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


def _store(candidate: Candidate, warehouse: Warehouse, commit: Commit) -> None:
    source, accepted = candidate.source, candidate.accepted
    if not accepted:
        return
    partitions = accepted if source.partitions else None
    try:
        warehouse.replace_partitions(TableName.of_key(source.raw_key), partitions, candidate.relation, commit)
    except LakeError as error:
        raise dg.Failure(
            f"source {source.name}: {len(accepted)} accepted partitions, {accepted[0]} to {accepted[-1]}, "
            f"were not stored. {error}"
        ) from error


def _load(
    source: Source, partitions: Sequence[str], build: Build, warehouse: Warehouse, checks: Sequence[dg.AssetCheckSpec]
) -> Iterator[Event]:
    """Inspect what was delivered, store and record what is accepted, and say of each partition why or why not.

    Raises:
        Failure: some were refused.
    """
    settings = Environment.current()
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
        database = Path(folder) / "candidate.duckdb"
        candidate = inspect(source, settings.landing, partitions, database, settings.memory, settings.threads)
        judged = expectations.judge(candidate, settings.memory, settings.threads)
        candidate = replace(candidate, problems=(*candidate.problems, *judged))
        _store(candidate, warehouse, Commit(build.context.run.run_id, str(source.raw_key)))
    _record(candidate, build)
    yield from _evaluations(build.context.instance, candidate, checks)
    if candidate.problems:
        raise refusal(candidate)


def _record(candidate: Candidate, build: Build) -> None:
    accepted = {_pair(partition): partition for partition in candidate.accepted}
    if not accepted:
        return
    versions = {pair: candidate.fingerprints[partition].data_version for pair, partition in accepted.items()}
    build.delivered(candidate.source.upstream_key, versions)
    metadata: dict[str, dict[str, int | str]] = {
        pair: {
            "files": len(candidate.deliveries[partition].files),
            "bytes": candidate.deliveries[partition].bytes,
            "upstream_data_version": versions[pair],
        }
        for pair, partition in accepted.items()
    }
    build.record_table(candidate.source.raw_key, list(accepted), metadata)


def _as_before(
    instance: dg.DagsterInstance, source: Source, partitions: Sequence[str], checks: Sequence[dg.AssetCheckSpec]
) -> Iterator[Event]:
    """Verdicts on what was confirmed without another look: automation takes one on an older event for outdated."""
    if not partitions:
        return
    judged = judged_materializations(instance, source.raw_key, partitions if source.partitions else None)
    for partition in partitions:
        for check in checks:
            at = partition if source.partitions else None
            yield verdict(judged, check, at, passed=True, description="the delivery is as it was", metadata={})


def _delivered_as(pair: str) -> str:
    """The name under which a pair is delivered."""
    return pair or UNPARTITIONED


def _pair(partition: str) -> str:
    return "" if partition == UNPARTITIONED else partition


def _completeness(source: Source, storage: Storage) -> Completeness:
    due = source.expected_by.total_seconds() / 3600 if source.expected_by else Completeness().due_after_hours
    return Completeness(storage=storage, may_be_empty=source.may_be_empty, due_after_hours=due)


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
