"""`headwater check` tells people and programs how every pair stands, over the assets of both code locations."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result

from platform_assets.asset_graph.published import workspace_graph
from platform_assets.instance.services import instance_settings, open_instance
from platform_assets.partition_checker.command import check
from platform_assets.partition_checker.orphans_command import forget
from resources.environment import Environment
from resources.lake_catalog import LakeCatalog
from resources.warehouse import Commit, TableName, Warehouse

pytestmark = pytest.mark.xdist_group("definitions")

PRODUCTS, UPSTREAM = "commerce/raw_products", "commerce/upstream_products"
TABLE = TableName("commerce", "raw_products")


@pytest.fixture
def prepared(
    environment: Environment,
    shared_environment: Environment,
    locations: Mapping[str, dg.Definitions],
    monkeypatch: pytest.MonkeyPatch,
) -> Environment:
    """An environment with an instance, a lake, and the graph as it was kept when the locations were last loaded."""
    with monkeypatch.context() as patch:
        patch.setenv("HEADWATER_HOME", str(shared_environment.home))
        workspace_graph(shared_environment.home)
    shutil.copy(shared_environment.home / "graph.json", environment.home)
    environment.dagster_home.mkdir()
    (environment.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(environment)))
    Warehouse.of(environment).snapshot()
    return environment


def run(*arguments: str) -> Result:
    return CliRunner().invoke(check, arguments)


def store_products(environment: Environment) -> None:
    rows = pa.table({"product_id": [1, 2, 3]})
    Warehouse.of(environment).replace_partitions(TABLE, None, rows, Commit("somebody", PRODUCTS))


def test_as_json_every_pair_is_listed_and_nothing_else_is_printed(prepared: Environment) -> None:
    done = run("commerce/raw_transactions", PRODUCTS, "--json")
    pairs = json.loads(done.stdout)
    assert done.exit_code == 1
    assert len(pairs) == 364 + 1
    assert {tuple(pair) for pair in pairs} == {("asset", "partition", "state", "rows", "reason")}
    (whole,) = [pair for pair in pairs if pair["asset"] == PRODUCTS]
    assert whole == {
        "asset": PRODUCTS,
        "partition": None,
        "state": "missing",
        "rows": None,
        "reason": "it was never built",
    }


def test_without_a_name_every_asset_of_both_locations_is_checked(
    prepared: Environment, locations: Mapping[str, dg.Definitions]
) -> None:
    pairs = json.loads(run("--json").stdout)
    assets = {pair["asset"] for pair in pairs}
    assert {"webtoon/raw_reads", "commerce/product_days", "commerce/product_demand_predictions", UPSTREAM} <= assets


def test_partitions_limit_what_is_checked(prepared: Environment) -> None:
    pairs = json.loads(run("commerce", "--partitions", "2017-03-01..2017-03-02", "--json").stdout)
    assert {pair["partition"] for pair in pairs} == {"2017-03-01", "2017-03-02"}


def test_all_verified_is_a_success(prepared: Environment) -> None:
    with open_instance(prepared) as instance:
        event = dg.AssetMaterialization(UPSTREAM.split("/"), tags={"dagster/data_version": "3-9-ab"})
        instance.report_runless_asset_event(event)
    done = run(UPSTREAM)
    assert (done.exit_code, "All 1 pairs are verified." in done.stdout) == (0, True)


def test_people_see_states_by_asset_and_neighbours_in_one_line(prepared: Environment) -> None:
    done = run("commerce/raw_transactions", "--partitions", "2017-03-01..2017-03-31")
    assert done.exit_code == 1
    assert "commerce/raw_transactions@2017-03-01..2017-03-31 (31 pairs) is late: it was expected by" in done.stdout
    assert "31 of 31 pairs are not verified. What led to one: headwater explain PAIR" in done.stdout


def test_stored_pairs_are_adopted_on_request_and_a_deep_check_reads_them(prepared: Environment) -> None:
    store_products(prepared)
    assert "is unrecorded" in run(PRODUCTS).stdout
    adopting = run(PRODUCTS, "--adopt")
    assert "adopted 1 stored pairs that had no receipt" in adopting.stderr
    assert adopting.exit_code == 0
    assert run(PRODUCTS, "--deep").exit_code == 0
    (path,) = LakeCatalog(Warehouse.of(prepared)).files()[TABLE].paths
    Path(path).write_bytes(bytes(Path(path).stat().st_size))
    assert run(PRODUCTS).exit_code == 0
    deep = run(PRODUCTS, "--deep", "--json")
    assert (deep.exit_code, json.loads(deep.stdout)[0]["state"]) == (1, "short")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["commerce/raw_product"], "no asset is called 'commerce/raw_product'; did you mean commerce/raw_products"),
        (
            ["commerce/raw_transactions", "--partitions", "2019-01-01"],
            "its partitions run from 2017-01-01 to",
        ),
        (["--partitions", "2017-03-02..2017-03-01"], "ends before it begins"),
        ([PRODUCTS, "--partitions", "2017-03-01"], "has no partitions: leave 2017-03-01 out"),
    ],
)
def test_what_does_not_exist_is_a_usage_error_that_says_what_does(
    prepared: Environment, arguments: list[str], said: str
) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_catalog_that_cannot_be_read_is_an_error_that_says_what_to_do(prepared: Environment) -> None:
    Path(prepared.lake_catalog.removeprefix("sqlite:")).unlink()
    command = [sys.executable, "-c", "from platform_assets.cli import main; main()", "check", PRODUCTS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Error: the lake's catalog cannot be read" in done.stderr
    assert "headwater prepare" in done.stderr


def test_what_no_location_declares_is_listed_and_removed_on_demand(prepared: Environment) -> None:
    table = TableName("commerce", "renamed_since")
    Warehouse.of(prepared).replace_partitions(table, None, pa.table({"n": [1]}), Commit("somebody", ""))
    shown = run("commerce").stdout
    assert "commerce/renamed_since is orphaned: no code location declares it" in shown
    assert "headwater forget ASSET" in shown
    orphaned = [pair for pair in json.loads(run("--json").stdout) if pair["state"] == "orphaned"]
    assert [pair["asset"] for pair in orphaned] == ["commerce/renamed_since"]
    assert "orphaned" not in run("webtoon").stdout

    def requested(*arguments: str) -> Result:
        return CliRunner().invoke(forget, arguments)

    assert "is declared: it is no orphan" in requested(PRODUCTS, "--yes").output
    assert (
        "nothing is stored of commerce/nothing; orphaned: commerce/renamed_since"
        in requested("commerce/nothing").output
    )
    assert "would remove commerce/renamed_since" in requested("commerce/renamed_since").output
    assert table in Warehouse.of(prepared).tables()
    assert "removed commerce/renamed_since" in requested("commerce/renamed_since", "--yes").output
    assert table not in Warehouse.of(prepared).tables()


def test_what_a_removed_team_left_is_removed_by_its_name(prepared: Environment) -> None:
    warehouse = Warehouse.of(prepared)
    left = [TableName("travel", "raw_trips"), TableName("travel", "trip_days")]
    for table in left:
        warehouse.replace_partitions(table, None, pa.table({"n": [1]}), Commit("somebody", ""))

    def requested(*arguments: str) -> Result:
        return CliRunner().invoke(forget, arguments)

    assert "is declared: it is no orphan" in requested("travel", "commerce", "--yes").output
    assert set(left) <= set(warehouse.tables()), "one name was refused, and something was removed"
    assert [orphan["removed"] for orphan in json.loads(requested("travel", "--json").output)] == [False, False]
    removed = json.loads(requested("travel", "travel/trip_days", "--yes", "--json").output)
    assert [(orphan["asset"], orphan["removed"]) for orphan in removed] == [
        ("travel/raw_trips", True),
        ("travel/trip_days", True),
    ]
    assert not set(left) & set(warehouse.tables())
