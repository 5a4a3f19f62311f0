"""dbt models as assets: one multi-asset for each team and calendar.

Belongs here: the factory and its thin step. Not here: translation of one model (`translator.py`), bookkeeping of
dbt's results (`results.py`), windows (`window.py`), lineage (`lineage.py`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from platform_assets.dbt_models.lineage import ColumnLineage, cached_lineage
from platform_assets.dbt_models.results import NodeResult, Verdicts
from platform_assets.dbt_models.translator import LakeTranslator, grain_of
from platform_assets.dbt_models.window import event_time_flags
from platform_assets.table_metadata import table_metadata
from resources.dbt import Dbt
from resources.warehouse import PARTITION_KEY, POOL, TableName, Warehouse, physical_partitions

_PARTITION_KEY_MEANING = "Dagster partition key of the row: local time of the team."

StepEvent = dg.MaterializeResult[None] | dg.AssetCheckEvaluation


@dataclass(frozen=True)
class DbtGraph:
    """The dbt project as the asset graph sees it: the manifest, what its sources' tables look like, and the file in
    which its lineage is kept."""

    manifest: Mapping[str, Any]
    source_columns: Mapping[TableName, Mapping[str, str]]
    cache: Path
    translator: LakeTranslator = field(default_factory=LakeTranslator)

    @cached_property
    def lineage(self) -> Mapping[TableName, ColumnLineage]:
        """Column-level lineage of every model."""
        return cached_lineage(self.cache, self.manifest, self.source_columns)

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
        declared = self.manifest["nodes"][unique_id]["columns"].values()
        types = {column["name"].lower(): column.get("data_type") or "" for column in declared}
        return spec.merge_attributes(metadata=self.table_metadata(unique_id, types))

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
            for name, upstream in self.lineage[table_of(node)].columns.items()
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
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
    )
    def build(context: dg.AssetExecutionContext, dbt: Dbt, warehouse: Warehouse) -> Iterator[StepEvent]:
        selected = [specs[key] for key in sorted(context.selected_asset_keys)]
        judges = {test: check for test, check in checks.items() if check.key in context.selected_asset_check_keys}
        keys = context.partition_keys if calendar is not None else []
        verdicts = Verdicts(
            {
                model: frozenset(test for test, check in judges.items() if check.asset_key == graph.spec(model).key)
                for model in selected
            }
        )
        with (
            dbt.build(
                [*_selection(graph, [*selected, *judges]), *event_time_flags(calendar, keys)],
                graph.manifest,
                graph.translator,
                context.run.run_id,
            ) as invocation,
            warehouse.reader() as lake,
        ):
            for event in invocation.stream_raw_events():
                if not event.is_result_event:
                    _log_error(context, event.raw_event)
                    continue
                result = NodeResult.of_event(event.raw_event)
                if result.unique_id in judges:
                    yield _evaluation(judges[result.unique_id], result, keys)
                for model in verdicts.add(result):
                    yield _recorded(context, graph, model, keys, lake)
        _refuse_unless_complete(graph, verdicts)

    return build


def _selection(graph: DbtGraph, nodes: Sequence[str]) -> list[str]:
    """The flags that select exactly `nodes`, models and tests: no test because of what else it happens to read."""
    names = [".".join(graph.manifest["nodes"][node]["fqn"]) for node in nodes]
    return ["--select", *names, "--indirect-selection", "empty", "--exclude-resource-type", "unit_test"]


def _evaluation(check: dg.AssetCheckSpec, result: NodeResult, keys: Sequence[str]) -> dg.AssetCheckEvaluation:
    metadata: dict[str, Any] = {"failures": result.failures, "seconds": result.seconds}
    if keys:
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


def _recorded(
    context: dg.AssetExecutionContext,
    graph: DbtGraph,
    model: NodeResult,
    keys: Sequence[str],
    lake: duckdb.DuckDBPyConnection,
) -> dg.MaterializeResult[None]:
    """The materialization of every partition at once; schema and lineage go with the last, which the catalog shows."""
    node = graph.manifest["nodes"][model.unique_id]
    asset_key = graph.spec(model.unique_id).key
    table = lake.sql(f"from {table_of(node).sql}")
    types = dict(zip(table.columns, map(str, table.types), strict=True))
    rows = _rows(node, keys, lake)
    whole = graph.table_metadata(model.unique_id, types) | {"seconds of the run": model.seconds}
    if node["config"]["materialized"] == "lake_table":
        whole["dagster/row_count"] = sum(rows.values())
    if not keys:
        return dg.MaterializeResult(asset_key, metadata=whole)
    for key in keys:
        of_partition: dict[str, Any] = {"dagster/partition_row_count": rows.get(key, 0)}
        context.add_asset_metadata(of_partition | (whole if key == keys[-1] else {}), asset_key, key)
    return dg.MaterializeResult(asset_key)


def _rows(node: Mapping[str, Any], keys: Sequence[str], lake: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rows by partition; from the catalog alone for a table, counted for a view."""
    table = table_of(node)
    if node["config"]["materialized"] == "lake_table":
        return {key: partition.rows for key, partition in physical_partitions(lake, table).items()}
    if not keys:
        return {"": len(lake.sql(f"from {table.sql}"))}
    counted = lake.execute(
        f"select {PARTITION_KEY}, count(*) from {table.sql} where {PARTITION_KEY} between ? and ? group by 1",
        [min(keys), max(keys)],
    )
    return dict(counted.fetchall())


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
