"""dbt models as assets: one multi-asset for each team and calendar.

Belongs here: the factory and its thin step. Not here: translation of one model (`translator.py`), bookkeeping of
dbt's results (`results.py`), windows (`window.py`), lineage and code versions (`analysis.py`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg

from platform_assets.backfills import ONE_RUN
from platform_assets.dbt_models.analysis import Analysis, cached_analysis
from platform_assets.dbt_models.results import NodeResult, Verdicts
from platform_assets.dbt_models.translator import LakeTranslator, grain_of
from platform_assets.dbt_models.window import event_time_flags, windows_variable
from platform_assets.partition_checker.build import Build
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.kept import columns_of
from platform_assets.table_metadata import table_metadata
from resources.dbt import Dbt
from resources.warehouse import PARTITION_KEY, POOL, TableName

_PARTITION_KEY_MEANING = "Dagster partition key of the row: local time of the team."

StepEvent = dg.MaterializeResult[None] | dg.AssetCheckEvaluation


@dataclass(frozen=True)
class DbtGraph:
    """The dbt project as the asset graph sees it: the manifest, what its sources' tables look like, and the file in
    which the analysis of its SQL is kept."""

    manifest: Mapping[str, Any]
    source_columns: Mapping[TableName, Mapping[str, str]]
    cache: Path
    translator: LakeTranslator = field(default_factory=LakeTranslator)

    @cached_property
    def analysis(self) -> Analysis:
        """Column-level lineage and code version of every model."""
        return cached_analysis(self.cache, self.manifest, self.source_columns)

    def models(self) -> dict[tuple[str, str], list[str]]:
        """The models' unique ids by team and grain."""
        found = defaultdict(list)
        for unique_id, node in sorted(self.manifest["nodes"].items()):
            if node["resource_type"] == "model":
                found[node["schema"], grain_of(node)].append(unique_id)
        return dict(found)

    def spec(self, unique_id: str) -> dg.AssetSpec:
        """The asset of a model."""
        return self._specs[unique_id]

    @cached_property
    def _specs(self) -> Mapping[str, dg.AssetSpec]:
        return {model: self._made(model) for models in self.models().values() for model in models}

    def _made(self, unique_id: str) -> dg.AssetSpec:
        spec = self.translator.get_asset_spec(self.manifest, unique_id, None)
        node = self.manifest["nodes"][unique_id]
        types = {column["name"].lower(): column.get("data_type") or "" for column in node["columns"].values()}
        return spec.merge_attributes(metadata=self.table_metadata(unique_id, types)).replace_attributes(
            code_version=self.analysis.code_versions[table_of(node)]
        )

    def check_specs(self, unique_id: str) -> Iterator[tuple[str, dg.AssetCheckSpec]]:
        """The data tests of a model as checks of its asset, with their dbt ids.

        A test that reads several models belongs to the one that its `meta.dagster.ref` names.
        """
        spec = self.spec(unique_id)
        for child in self.manifest["child_map"][unique_id]:
            if child.startswith("test."):
                check = self.translator.get_asset_check_spec(spec, self.manifest, child, None)
                if check is not None:
                    yield child, check

    def table_metadata(self, unique_id: str, types: Mapping[str, str]) -> dict[str, Any]:
        """Column schema and lineage of a model, for the catalog; `types` are its columns' types in the lake."""
        node = self.manifest["nodes"][unique_id]
        described = {name.lower(): column["description"] for name, column in node["columns"].items()}
        columns = [
            dg.TableColumn(name, kind, _PARTITION_KEY_MEANING if name == PARTITION_KEY else described.get(name))
            for name, kind in types.items()
        ]
        deps = {
            name: [dg.TableColumnDep(table.key, column) for table, column in upstream]
            for name, upstream in self.analysis.lineage[table_of(node)].columns.items()
        }
        return table_metadata(columns, deps)


def table_of(node: Mapping[str, Any]) -> TableName:
    """Where a model is stored."""
    return TableName(node["schema"], node["alias"])


def build_dbt_assets(graph: DbtGraph) -> list[dg.AssetsDefinition]:
    """Every model of the project as an asset, its data tests as that asset's checks."""
    return [_models_of_one_calendar(graph, *at, models) for at, models in graph.models().items()]


def _models_of_one_calendar(graph: DbtGraph, team: str, grain: str, models: Sequence[str]) -> dg.AssetsDefinition:
    specs = {graph.spec(model).key: model for model in models}
    checks = {test: check for model in models for test, check in graph.check_specs(model)}
    calendar = graph.spec(models[0]).partitions_def
    assert calendar is None or isinstance(calendar, dg.TimeWindowPartitionsDefinition)

    @dg.multi_asset(
        name=f"dbt_{team}_{grain}",
        specs=[graph.spec(model) for model in models],
        check_specs=list(checks.values()),
        can_subset=True,
        backfill_policy=ONE_RUN["platform_assets"],
        pool=POOL,
    )
    def build(context: dg.AssetExecutionContext, dbt: Dbt, checker: PartitionChecker) -> Iterator[StepEvent]:
        judges = {test: check for test, check in checks.items() if check.key in context.selected_asset_check_keys}
        with checker.building(context) as step:
            for wave in step.waves():
                for keys, partitions in together(wave):
                    models = [specs[key] for key in keys]
                    yield from _run(Invocation(graph, models, judges, calendar, partitions), dbt, step)
            yield from step.outputs()

    return build


@dataclass(frozen=True)
class Invocation:
    """One dbt run: models, the tests that judge them, and the partitions that it builds of all of them."""

    graph: DbtGraph
    models: Sequence[str]
    judges: Mapping[str, dg.AssetCheckSpec]
    calendar: dg.TimeWindowPartitionsDefinition | None
    partitions: Sequence[str]

    @property
    def tests(self) -> dict[str, frozenset[str]]:
        """The tests of each model."""
        keys = {model: self.graph.spec(model).key for model in self.models}
        return {
            model: frozenset(test for test, check in self.judges.items() if check.asset_key == key)
            for model, key in keys.items()
        }

    @property
    def arguments(self) -> list[str]:
        """The flags that select exactly these models and tests: no test because of what else it happens to read."""
        nodes = [*self.models, *sorted(set().union(*self.tests.values()))]
        names = [".".join(self.graph.manifest["nodes"][node]["fqn"]) for node in nodes]
        selection = ["--select", *names, "--indirect-selection", "empty", "--exclude-resource-type", "unit_test"]
        return [*selection, *event_time_flags(self.calendar, self.partitions if self.calendar else [])]


def together(wave: Mapping[dg.AssetKey, Sequence[str]]) -> Iterator[tuple[list[dg.AssetKey], Sequence[str]]]:
    """The assets of a wave that one dbt run can build, in its order: those that follow each other with equal pairs."""
    for partitions, some in groupby(wave.items(), key=lambda item: item[1]):
        yield [key for key, _ in some], partitions


def _run(invocation: Invocation, dbt: Dbt, step: Build) -> Iterator[dg.AssetCheckEvaluation]:
    """Let dbt build, report its tests, and record each model once all its tests have passed.

    Raises:
        Failure: a model or a test failed; what passed is recorded.
    """
    graph, context = invocation.graph, step.context
    verdicts = Verdicts(invocation.tests)
    windows = windows_variable(invocation.calendar, invocation.partitions)
    with dbt.build(invocation.arguments, graph.manifest, graph.translator, context.run.run_id, windows) as process:
        for event in process.stream_raw_events():
            if not event.is_result_event:
                _log_error(context, event.raw_event)
                continue
            result = NodeResult.of_event(event.raw_event)
            if result.unique_id in invocation.judges:
                yield _evaluation(invocation.judges[result.unique_id], result, invocation.partitions)
            for model in verdicts.add(result):
                _record(graph, model, invocation.partitions, step)
    _refuse_unless_complete(graph, verdicts)


def _evaluation(check: dg.AssetCheckSpec, result: NodeResult, keys: Sequence[str]) -> dg.AssetCheckEvaluation:
    metadata: dict[str, Any] = {"failures": result.failures, "seconds": result.seconds}
    if any(keys):
        metadata |= {"first partition": min(keys), "last partition": max(keys)}
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=result.status == "pass",
        severity=dg.AssetCheckSeverity.WARN if result.passed else dg.AssetCheckSeverity.ERROR,
        blocking=check.blocking,
        description=result.message,
        metadata=metadata,
    )


def _record(graph: DbtGraph, model: NodeResult, partitions: Sequence[str], step: Build) -> None:
    """Leave the receipts of a model; its schema and lineage go with the last, which the catalog shows."""
    node, key = graph.manifest["nodes"][model.unique_id], graph.spec(model.unique_id).key
    types = columns_of(step.catalog, key)
    whole = graph.table_metadata(model.unique_id, types) | {"seconds of the run": model.seconds}
    record = step.record_table if node["config"]["materialized"] == "lake_table" else step.record_view
    record(key, partitions, {partitions[-1]: whole})


def _log_error(context: dg.AssetExecutionContext, event: Mapping[str, Any]) -> None:
    if event["info"]["level"] == "error" and event["info"]["msg"].strip():
        context.log.error(event["info"]["msg"])


def _refuse_unless_complete(graph: DbtGraph, verdicts: Verdicts) -> None:
    if not verdicts.withheld:
        return
    names = ", ".join(graph.spec(model).key.to_user_string() for model in verdicts.withheld)
    raise dg.Failure(
        f"not recorded, because they or what judges them did not pass: {names}. "
        + " | ".join(verdicts.reasons())
        + ". Mend the model or its input, then materialize these partitions again."
    )
