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
from platform_assets.dbt_models.results import Findings, NodeResult, Outcome
from platform_assets.dbt_models.translator import LakeTranslator, grain_of
from platform_assets.dbt_models.window import event_time_flags, windows_variable
from platform_assets.partition_checker.build import Build
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.stored import columns_of
from platform_assets.partitioned_checks import by_partition, evaluated_materializations, evaluation_of
from platform_assets.table_metadata import table_metadata
from resources.dbt import Dbt
from resources.warehouse import PARTITION_KEY, POOL, TableName

_PARTITION_KEY_MEANING = "Dagster partition key of the row: local time of the team."

StepEvent = dg.MaterializeResult[None]


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
        """The data tests of a model as checks of its asset, judged by its partitions, with their dbt ids.

        A test that reads several models belongs to the one that its `meta.dagster.ref` names.
        """
        spec = self.spec(unique_id)
        for child in self.manifest["child_map"][unique_id]:
            if child.startswith("test."):
                check = self.translator.get_asset_check_spec(spec, self.manifest, child, None)
                if check is not None:
                    yield child, by_partition(check, spec.partitions_def)

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
            refusals = []
            # A source may have gained a column that nothing was delivered with yet.
            step.catalog.warehouse.add_columns(graph.source_columns)
            for wave in step.waves():
                for keys, partitions in together(wave):
                    invocation = Invocation(graph, [specs[key] for key in keys], judges, calendar, partitions)
                    refusals += _build(invocation, dbt, step)
                    if refusals:
                        # What comes next may need what failed: the next wave knows.
                        break
            for partitions, tests in _unanswered(step, judges):
                refusals += _test(Invocation(graph, [], tests, calendar, partitions), dbt, step)
            if refusals:
                raise dg.Failure(" ".join(refusals) + " Mend the model or its input, then materialize these again.")
            yield from step.outputs()

    return build


@dataclass(frozen=True)
class Invocation:
    """One dbt run: models, the tests that judge them, and the partitions that it builds of all of them.

    Without models it asks all of `judges` about what is stored.
    """

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
        tests = set().union(*self.tests.values()) if self.models else self.judges.keys()
        names = [".".join(self.graph.manifest["nodes"][node]["fqn"]) for node in [*self.models, *sorted(tests)]]
        selection = ["--select", *names, "--indirect-selection", "empty", "--exclude-resource-type", "unit_test"]
        return [*selection, *event_time_flags(self.calendar, self.partitions if self.calendar else [])]


def together(wave: Mapping[dg.AssetKey, Sequence[str]]) -> Iterator[tuple[list[dg.AssetKey], Sequence[str]]]:
    """The assets of a wave that one dbt run can build, in its order: those that follow each other with equal pairs."""
    for partitions, some in groupby(wave.items(), key=lambda item: item[1]):
        yield [key for key, _ in some], partitions


def _build(invocation: Invocation, dbt: Dbt, step: Build) -> list[str]:
    """Let dbt build, record each pair once all its tests have passed, and report the tests.

    Returns:
        Why pairs were not recorded: none, or one sentence. These are given up.
    """
    outcome = Outcome(invocation.tests, invocation.partitions)
    for model, good in _results(invocation, outcome, dbt, step):
        if good:
            _record(invocation.graph, model, good, step)
    step.report(list(_evaluations(invocation, outcome, step)))
    for broken in outcome.broken:
        step.give_up(invocation.graph.spec(broken).key, outcome.bad(broken))
    return _refusals(invocation, outcome)


def _test(invocation: Invocation, dbt: Dbt, step: Build) -> list[str]:
    """Ask tests about what is stored already, and report them; returns why what was stored is judged bad."""
    outcome = Outcome({}, invocation.partitions)
    list(_results(invocation, outcome, dbt, step))
    step.report(list(_evaluations(invocation, outcome, step)))
    return [f"what was recorded does not pass: {' | '.join(outcome.reasons())}."] if outcome.reasons() else []


def _results(
    invocation: Invocation, outcome: Outcome, dbt: Dbt, step: Build
) -> Iterator[tuple[NodeResult, Sequence[str]]]:
    """Run dbt; yields each model when it and its tests have ended, with the partitions that passed."""
    graph, windows = invocation.graph, windows_variable(invocation.calendar, invocation.partitions)
    run_id = step.context.run.run_id
    with dbt.build(invocation.arguments, graph.manifest, graph.translator, run_id, windows) as process:
        for event in process.stream_raw_events():
            if event.is_result_event:
                yield from outcome.add(NodeResult.of_event(event.raw_event))
            elif told := Findings.of_event(event.raw_event):
                outcome.findings[told[0]] = told[1]
            elif error := _error(event.raw_event):
                outcome.errors.append(error)
                step.context.log.error(error)


def _unanswered(
    step: Build, judges: Mapping[str, dg.AssetCheckSpec]
) -> list[tuple[Sequence[str], dict[str, dg.AssetCheckSpec]]]:
    """The tests that no run has asked about confirmed pairs, by partitions, once the others are repeated."""
    fresh = step.repeat_evaluations(judges.values())
    found: dict[tuple[str, ...], dict[str, dg.AssetCheckSpec]] = {}
    for test, check in judges.items():
        if partitions := fresh.get(check.key):
            found.setdefault(tuple(partitions), {})[test] = check
    return list(found.items())


def _evaluations(invocation: Invocation, outcome: Outcome, step: Build) -> Iterator[dg.AssetCheckEvaluation]:
    """What each test that came to a verdict says of each partition, about what is materialized by now."""
    ended = {test: result for test, result in outcome.results.items() if test in invocation.judges and result.judged}
    keys = {invocation.judges[test].asset_key for test in ended}
    asked = invocation.partitions if invocation.calendar else None
    judged = {key: evaluated_materializations(step.context.instance, key, asked) for key in keys}
    for test, result in ended.items():
        check, failing, warning = invocation.judges[test], outcome.failing(test), outcome.warning(test)
        for partition in invocation.partitions:
            fails, warns = partition in failing, partition in warning
            yield evaluation_of(
                judged[check.asset_key],
                check,
                partition or None,
                # A blocking check that warns holds nobody back.
                passed=not fails and not (warns and not check.blocking),
                severity=dg.AssetCheckSeverity.ERROR if fails or not warns else dg.AssetCheckSeverity.WARN,
                description=result.message if fails or warns else None,
                metadata={"failures": outcome.found(test, partition).failures, "seconds": result.seconds},
            )


def _record(graph: DbtGraph, model: NodeResult, partitions: Sequence[str], step: Build) -> None:
    """Leave the receipts of a model; its schema and lineage go with the last, which the catalog shows."""
    node, key = graph.manifest["nodes"][model.unique_id], graph.spec(model.unique_id).key
    types = columns_of(step.catalog, key)
    whole = graph.table_metadata(model.unique_id, types) | {"seconds of the run": model.seconds}
    record = step.record_table if node["config"]["materialized"] == "lake_table" else step.record_view
    record(key, partitions, {partitions[-1]: whole})


def _error(event: Mapping[str, Any]) -> str:
    return str(event["info"]["msg"]).strip() if event["info"]["level"] == "error" else ""


def _refusals(invocation: Invocation, outcome: Outcome) -> list[str]:
    if not outcome.broken:
        return []
    names = ", ".join(invocation.graph.spec(model).key.to_user_string() for model in outcome.broken)
    return [f"not recorded, because they or what judges them did not pass: {names}. {' | '.join(outcome.reasons())}."]
