"""Dagster definitions of the sources: from each declaration the upstream asset, the raw table and its checks.
 Belongs here: specs, the short body of the raw asset, and the events it leaves. Not here: what makes a
delivery good (`validation.py`, `expectations.py`), how it is noticed (`arrival.py`), how it is stored
(`resources/warehouse.py`).
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import dagster as dg

from platform_assets.asset_graph.completeness import Completeness, Storage
from platform_assets.asset_graph.declared import EQUAL_VERSIONS
from platform_assets.automation import when_upstream_complete
from platform_assets.backfills import ONE_RUN
from platform_assets.partition_checker.build import Build
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.deliveries import delivered_versions
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of, partitioned_check
from platform_assets.sources import expectations
from platform_assets.sources.arrival import build_arrival_sensor
from platform_assets.sources.declaration import WHOLE, Source
from platform_assets.sources.validation import Candidate, Problem, inspect
from platform_assets.table_metadata import table_metadata
from platform_assets.teams import team_of
from resources.environment import Environment
from resources.warehouse import Commit, LakeError, TableName, Warehouse

DELIVERY = "delivery"
EXPECTATIONS = expectations.RULE

_PROBLEMS_SHOWN = 50

Event = dg.MaterializeResult[None] | dg.Output[None]


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
        group_name=team_of(source.team).group("sources"),
        owners=[team_of(source.team).owner],
        kinds={source.file_format.removesuffix("l")},
        metadata=table_metadata(_columns(source), {}) | _completeness(source, "upstream").metadata,
    )


def build_raw(source: Source) -> dg.AssetsDefinition:
    """The raw table: what was delivered and accepted, with a `partition_key` when it is partitioned."""
    version, *equal_versions = _versions(source)
    spec = dg.AssetSpec(
        source.raw_key,
        deps=[source.upstream_key],
        description=f"{source.description} As delivered, once it was inspected and judged.",
        partitions_def=source.partitions,
        group_name=team_of(source.team).group("sources"),
        owners=[team_of(source.team).owner],
        kinds={"duckdb", "parquet"},
        code_version=version,
        metadata={
            EQUAL_VERSIONS: list(equal_versions),
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
            for wave in build.waves():
                _load(source, [_delivered_as(pair) for pair in wave[source.raw_key]], build, warehouse, checks)
            unasked = {pair for pairs in build.repeat_evaluations(checks).values() for pair in pairs}
            _look_again(source, sorted(map(_delivered_as, unasked)), build, checks)
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


@contextmanager
def _inspected(source: Source, partitions: Sequence[str]) -> Iterator[Candidate]:
    """What was delivered of `partitions`, inspected and judged; it lasts as long as the context."""
    settings = Environment.current()
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
        database = Path(folder) / "candidate.duckdb"
        candidate = inspect(
            source, settings.landing, partitions, database, settings.memory, settings.threads, settings.limits
        )
        judged = expectations.judge(candidate, settings.memory, settings.threads)
        yield replace(candidate, problems=(*candidate.problems, *judged))


def _load(
    source: Source, partitions: Sequence[str], build: Build, warehouse: Warehouse, checks: Sequence[dg.AssetCheckSpec]
) -> None:
    """Inspect what was delivered, store and record what is accepted, and say of each partition why or why not.

    Raises:
        Failure: some were refused.
    """
    with _inspected(source, partitions) as candidate:
        _store(candidate, warehouse, Commit(build.context.run.run_id, str(source.raw_key)))
    _record(candidate, build)
    build.report(list(_evaluations(build.context.instance, candidate, checks)))
    if candidate.problems:
        build.refuse(source.raw_key, _reasons(candidate))
        raise refusal(candidate)


def _reasons(candidate: Candidate) -> dict[str, str]:
    """Of each refused pair, all that is wrong with its delivery."""
    reasons: dict[str, list[str]] = {}
    for problem in candidate.problems:
        reasons.setdefault(_pair(problem.partition), []).append(str(problem))
    return {pair: " ".join(lines) for pair, lines in reasons.items()}


def _record(candidate: Candidate, build: Build) -> None:
    accepted = {_pair(partition): partition for partition in candidate.accepted}
    if not accepted:
        return
    source = candidate.source
    arrived = delivered_versions(
        build.context.instance, source.upstream_key, source.partitions is not None, list(accepted)
    )
    versions = {
        pair: candidate.fingerprints[partition].version_since(arrived.get(pair)) for pair, partition in accepted.items()
    }
    build.delivered(source.upstream_key, versions)
    metadata: dict[str, dict[str, int | str]] = {
        pair: {
            "files": len(candidate.deliveries[partition].files),
            "bytes": candidate.deliveries[partition].bytes,
            "upstream_data_version": versions[pair],
            **_ignored(candidate, partition),
        }
        for pair, partition in accepted.items()
    }
    build.record_table(source.raw_key, list(accepted), metadata, new_columns_were_null=True)


def _look_again(source: Source, partitions: Sequence[str], build: Build, checks: Sequence[dg.AssetCheckSpec]) -> None:
    """Ask checks that are new about partitions that were confirmed; what is stored of these stays.

    Raises:
        Failure: some do not pass.
    """
    if partitions:
        with _inspected(source, partitions) as candidate:
            build.report(list(_evaluations(build.context.instance, candidate, checks)))
            if candidate.problems:
                raise refusal(candidate)


def _delivered_as(pair: str) -> str:
    """The name under which a pair is delivered."""
    return pair or WHOLE


def _pair(partition: str) -> str:
    return "" if partition == WHOLE else partition


def _completeness(source: Source, storage: Storage) -> Completeness:
    due = source.expected_by.total_seconds() / 3600 if source.expected_by else Completeness().due_after_hours
    return Completeness(storage=storage, may_be_empty=source.may_be_empty, due_after_hours=due)


def _evaluations(
    instance: dg.DagsterInstance, candidate: Candidate, checks: Sequence[dg.AssetCheckSpec]
) -> Iterator[dg.AssetCheckEvaluation]:
    """One evaluation per check and partition; expectations are not evaluated on what was not readable."""
    source = candidate.source
    judged = evaluated_materializations(instance, source.raw_key, candidate.partitions if source.partitions else None)
    problems: dict[tuple[str, str], list[Problem]] = {}
    for problem in candidate.problems:
        name = EXPECTATIONS if problem.rule == EXPECTATIONS else DELIVERY
        problems.setdefault((name, problem.partition), []).append(problem)
    for partition in candidate.partitions:
        for check in checks:
            if check.name == EXPECTATIONS and (DELIVERY, partition) in problems:
                continue
            found = problems.get((check.name, partition), [])
            yield evaluation_of(
                judged,
                check,
                partition if source.partitions else None,
                passed=not found,
                description="\n".join(map(str, found[:_PROBLEMS_SHOWN])) or None,
                metadata={**({"problems": len(found)} if found else {}), **_ignored(candidate, partition)},
            )


def _ignored(candidate: Candidate, partition: str) -> dict[str, str]:
    """What to say of columns that the files have and that are not stored."""
    names = sorted(candidate.ignored.get(partition, ()))
    return {"undeclared columns ignored": ", ".join(names)} if names else {}


def _columns(source: Source) -> list[dg.TableColumn]:
    return [
        dg.TableColumn(
            column.stored_name,
            column.type,
            column.description,
            constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=source.key == (column.stored_name,)),
        )
        for column in source.columns
    ]


def _lineage(source: Source) -> dict[str, list[dg.TableColumnDep]]:
    return {column.stored_name: [dg.TableColumnDep(source.upstream_key, column.name)] for column in source.columns}


def _versions(source: Source) -> tuple[str, ...]:
    """The version of a raw table's code, then others that store the same.

    It changes when a stored pair would come out otherwise: with a required column, or with what time means. A nullable
    column that is declared later is NULL in what was stored before, so it does not count, except where undeclared
    columns are ignored: older files may hold it there, and are read again. Nor does the order of the columns.

    Before, the version counted all columns in their order. A pair that was recorded so is as valid: with all columns,
    or before nullable ones were declared at the end.
    """
    columns = [(column.name, column.type, *([column.zone] if column.zone else [])) for column in source.columns]
    required = [one for one, column in zip(columns, source.columns, strict=True) if not column.nullable]
    additive, whole = _digest(("required", sorted(required)), source), _digest(("all", sorted(columns)), source)
    shortest = max([1, *(number for number, one in enumerate(columns, 1) if one in required)])
    before = [_digest(columns[:end], source) for end in range(len(columns), shortest - 1, -1)]
    first, second = (whole, additive) if source.undeclared_columns == "ignore" else (additive, whole)
    return first, second, *before


def _digest(columns: object, source: Source) -> str:
    return blake2b(repr((columns, source.event_time)).encode(), digest_size=6).hexdigest()
