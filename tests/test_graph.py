"""What must hold of every asset of both code locations."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest

from platform_assets.asset_graph.declared import declared_graph
from platform_assets.asset_graph.graph import Node
from platform_assets.asset_graph.published import GraphError, workspace_graph
from platform_assets.backfills import ONE_RUN
from platform_assets.partition_checker.reconcile import HEALTH
from platform_assets.teams import TEAMS
from resources.dbt import Dbt
from resources.environment import Environment
from resources.ledger import Ledger
from resources.warehouse import Warehouse
from tests.locations import SNAPSHOT, described, specs

pytestmark = pytest.mark.xdist_group("definitions")

HEAVY = ("torch", "lightgbm", "mlflow", "feast", "great_expectations")


def every_spec(locations: Mapping[str, dg.Definitions]) -> list[dg.AssetSpec]:
    return [spec for location in locations.values() for spec in specs(location)]


def test_every_asset_is_described_by_its_grain_owned_grouped_and_kinded(
    locations: Mapping[str, dg.Definitions],
) -> None:
    for spec in every_spec(locations):
        name, team = spec.key.to_user_string(), TEAMS[spec.key.path[0]]
        assert len(spec.key.path) == 2, name
        assert spec.group_name is not None, name
        assert spec.group_name == "platform" or spec.group_name.startswith(f"{team.name}_"), name
        assert list(spec.owners) == [team.owner], name
        assert spec.kinds, name
        assert spec.description, name
        assert "One " in spec.description, f"{name} does not state its grain: {spec.description}"


def test_every_column_of_a_mart_is_described_and_names_its_sources(locations: Mapping[str, dg.Definitions]) -> None:
    marts = [spec for spec in every_spec(locations) if spec.tags.get("layer") == "marts"]
    assert len(marts) > 8
    for spec in marts:
        lineage = spec.metadata["dagster/column_lineage"].deps_by_column
        for column in spec.metadata["dagster/column_schema"].columns:
            assert column.description, f"{spec.key} {column.name}"
            for dep in lineage.get(column.name, ()):
                link = f"[{dep.asset_key.path[-1]}.{dep.column_name}](/assets/{'/'.join(dep.asset_key.path)})"
                assert link in column.description, f"{spec.key} {column.name}"
        assert lineage, spec.key


def test_every_check_is_on_an_asset_of_its_own_location(locations: Mapping[str, dg.Definitions]) -> None:
    # A backfill selects every check on its assets, and the location that builds them could not run another's.
    for location in locations.values():
        own = {spec.key for spec in specs(location)}
        checks = location.resolve_asset_graph().asset_check_keys
        assert {check for check in checks if check.asset_key not in own} == set()


def test_no_backfill_can_put_assets_of_two_locations_into_one_run(locations: Mapping[str, dg.Definitions]) -> None:
    # It would, if they became ready together: Dagster tells them apart by calendar, partitions and policy alone.
    policies = {
        name: {
            node.backfill_policy
            for node in location.resolve_asset_graph().asset_nodes
            if node.is_materializable and node.partitions_def is not None
        }
        for name, location in locations.items()
    }
    assert policies == {name: {policy} for name, policy in ONE_RUN.items()}
    assert len(set(ONE_RUN.values())) == len(locations)


def test_every_asset_is_checked(locations: Mapping[str, dg.Definitions]) -> None:
    for location in locations.values():
        graph = location.resolve_asset_graph()
        for spec in specs(location):
            names = {check.name for check in graph.get_check_keys_for_assets({spec.key})}
            assert "freshness" in names, spec.key
            if not spec.key.path[1].startswith("upstream_") and "stg_" not in spec.key.path[1]:
                assert graph.get(spec.key).is_executable


def test_every_data_test_of_dbt_is_the_check_of_one_asset(
    locations: Mapping[str, dg.Definitions], shared_environment: Environment
) -> None:
    nodes = Dbt.of(shared_environment).manifest()["nodes"].values()
    tests = {node["name"] for node in nodes if node["resource_type"] == "test"}
    checks = [check.name for check in locations["platform_assets"].resolve_asset_graph().asset_check_keys]
    assert all(checks.count(test) == 1 for test in tests)
    assert len(tests) > 40


def test_a_data_test_reads_only_its_model_and_what_that_is_built_from(
    locations: Mapping[str, dg.Definitions], shared_environment: Environment
) -> None:
    graph = declared_graph(locations)
    manifest = Dbt.of(shared_environment).manifest()
    owners = {check.name: check.asset_key for node in graph.built for check in node.checks}
    for node in manifest["nodes"].values():
        if node["resource_type"] == "test":
            upstream, frontier = set(), [owners[node["name"]]]
            while frontier:
                key = frontier.pop()
                upstream.add(key)
                frontier.extend(graph.nodes[key].deps.keys() - upstream)
            reads = {
                dg.AssetKey([read["schema"], read["name"]])
                for read in map(manifest["nodes"].get, node["depends_on"]["nodes"])
                if read
            }
            assert reads <= upstream, node["name"]


def test_every_built_asset_waits_for_its_whole_upstream(locations: Mapping[str, dg.Definitions]) -> None:
    for location in locations.values():
        graph = location.resolve_asset_graph()
        for spec in specs(location):
            if graph.get(spec.key).is_executable and spec.key != HEALTH:
                condition = spec.automation_condition
                assert condition is not None, spec.key
                assert condition.get_label() == "when upstream complete", spec.key


def test_every_built_asset_refuses_by_name_what_it_lacks_before_anything_is_written(
    locations: Mapping[str, dg.Definitions], shared_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(shared_environment.home))
    graph = declared_graph(locations)
    with dg.DagsterInstance.ephemeral() as instance:
        for node in graph.built:
            if node.key == HEALTH:
                continue
            said = _refusal(locations[node.location or ""], node, instance)
            if all(graph.nodes[key].location is None for key in node.deps):
                assert f"dt={node.pairs[-1] or 'full'} does not exist. Have the upstream system deliver" in said
            else:
                assert f"refused to build {node.name}: " in said
                assert any(f"\n{graph.nodes[key].name}" in said for key in node.deps), said
                assert "headwater recover" in said
    assert Warehouse.of(shared_environment).tables() == []
    assert Ledger.of(shared_environment).standings() == {}
    assert not (shared_environment.dbt_target / "runs").exists(), "dbt was started"


def _refusal(location: dg.Definitions, node: Node, instance: dg.DagsterInstance) -> str:
    """What the step of an asset says when its last pair is to be built."""
    run = location.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[node.key],
        partition_key=node.pairs[-1] or None,
        raise_on_error=False,
    )
    (event,) = [event for event in run.all_events if event.is_step_failure]
    assert event.step_failure_data.error
    return event.step_failure_data.error.message


def test_the_graph_that_a_run_worker_finds_kept_is_the_one_of_the_definitions(
    locations: Mapping[str, dg.Definitions],
    shared_environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(shared_environment.home))
    loaded = declared_graph(locations)
    for _ in range(2):
        kept = workspace_graph(tmp_path)
        assert kept.nodes == loaded.nodes
    assert {file.name for file in tmp_path.iterdir()} == {"graph.json", "graph.lock"}


def test_while_a_location_does_not_load_nothing_is_answered_and_afterwards_all_is(
    locations: Mapping[str, dg.Definitions],
    shared_environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(shared_environment.home))
    before = workspace_graph(shared_environment.home)
    file = tmp_path / "graph.json"
    shutil.copy(shared_environment.home / "graph.json", file)
    file.write_text(file.read_text().replace('"signature": "', '"signature": "older '))
    old = file.read_text()
    # Without its settings no location can be loaded.
    monkeypatch.setenv("HEADWATER_THREADS", "many")
    for _ in range(2):
        with pytest.raises(
            GraphError, match=r"platform_assets \(.*\) does not load: SettingError: .*HEADWATER_THREADS"
        ):
            workspace_graph(tmp_path)
        assert file.read_text() == old
    monkeypatch.delenv("HEADWATER_THREADS")
    assert workspace_graph(tmp_path).nodes == before.nodes


def test_a_copy_whose_assets_depend_on_nothing_declared_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_environment: Environment
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(shared_environment.home))
    workspace_graph(shared_environment.home)
    file = tmp_path / "graph.json"
    known = json.loads((shared_environment.home / "graph.json").read_text())
    del known["locations"]["platform_assets"]
    file.write_text(json.dumps(known))
    with pytest.raises(GraphError, match="make no graph: .* depends on .*, declared nowhere. Correct one of the two"):
        workspace_graph(tmp_path)


def test_no_key_is_declared_twice(locations: Mapping[str, dg.Definitions]) -> None:
    keys = [spec.key for spec in every_spec(locations)]
    assert len(keys) == len(set(keys))


def test_every_dependency_across_locations_exists(locations: Mapping[str, dg.Definitions]) -> None:
    assert len(declared_graph(locations).nodes) == len(every_spec(locations))


def test_lineage_reaches_from_deliveries_to_the_forecast(locations: Mapping[str, dg.Definitions]) -> None:
    graph = declared_graph(locations)
    seen, frontier = set(), [dg.AssetKey(["commerce", "product_demand_predictions"])]
    while frontier:
        key = frontier.pop()
        seen.add(key)
        frontier.extend(graph.nodes[key].deps.keys() - seen)
    assert {
        dg.AssetKey(["commerce", f"upstream_{name}"]) for name in ("transactions", "promotions", "products")
    } <= seen


def test_products_are_what_is_declared_to_be_one(locations: Mapping[str, dg.Definitions]) -> None:
    graph = declared_graph(locations)
    products = {node.name for node in graph.nodes.values() if node.is_product}
    assert {"commerce/baskets", "commerce/product_demand_predictions", "commerce/price_recommendations"} <= products
    assert {
        spec.key.to_user_string() for spec in every_spec(locations) if spec.tags.get("layer") == "marts"
    } <= products
    # Nobody reads it, which makes no product of it.
    assert "commerce/stg_commerce__coupons" not in products


def test_a_pair_is_buildable_exactly_when_its_whole_upstream_is(locations: Mapping[str, dg.Definitions]) -> None:
    graph = declared_graph(locations)
    delivered = {key: set(node.pairs) for key, node in graph.nodes.items() if node.location is None}
    everything = graph.buildable(delivered)
    assert all(everything[node.key] == set(node.pairs) for node in graph.built)
    day = dg.AssetKey(["commerce", "upstream_transactions"])
    without = graph.buildable({**delivered, day: delivered[day] - {"2017-12-30"}})
    lost = {
        key.path[1]: sorted(everything[key] - without[key]) for key in everything if everything[key] != without[key]
    }
    assert lost["product_days"] == ["2017-12-30"]
    assert lost["product_weeks"] == ["2017-12-25"]
    assert lost["demand_signals"] == lost["product_demand_predictions"] == ["2018-01-01"]
    assert lost["product_demand_training_set"] == ["2017-12-25"]
    assert "reader_days" not in lost


def test_the_specs_are_those_of_the_snapshot(locations: Mapping[str, dg.Definitions]) -> None:
    assert described(locations) == SNAPSHOT.read_text(), "review the difference, then: python -m tests.locations"


@pytest.mark.parametrize("module", ["platform_assets.definitions", "ml_assets.definitions"])
def test_loading_a_location_imports_nothing_heavy(
    locations: Mapping[str, dg.Definitions], shared_environment: Environment, module: str
) -> None:
    banned = [*HEAVY, "pandas", *(["dagster_dbt"] if module.startswith("ml_") else [])]
    code = f"import sys, {module}; {module}.defs(); print([name for name in {banned!r} if name in sys.modules])"
    variables = shared_environment.variables
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=os.environ | variables, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
