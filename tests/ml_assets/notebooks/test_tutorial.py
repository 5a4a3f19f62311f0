"""The tutorial, as it lies in the repository, runs on a lake that the SDK's own assets built, and only reads."""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

from ml_assets.features.views import FeatureView
from ml_assets.notebooks import lab
from ml_assets.pricing.feature_views import HOUSEHOLD_HABITS, PRODUCT_PRICES
from ml_assets.sdk.tables import ProjectTables
from resources.environment import REPOSITORY
from resources.ledger import Ledger
from resources.warehouse import TableName
from tests.ml_assets.notebooks.market import FOLDS, WEEKS, Market, household_weeks, product_weeks
from tests.patience import PATIENCE_SECONDS

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.xdist_group("market"),
]

HANDED_OVER = """
import json, pathlib
there = pathlib.Path({there!r})
habits.to_parquet(there / "habits.parquet")
prices.to_parquet(there / "prices.parquet")
found = comparison.interval
(there / "comparison.json").write_text(json.dumps({{
    "model": model.registered_name, "fold": fold, "errors": comparison.errors, "refusals": comparison.refusals,
    "interval": [found.low, found.difference, found.high], "learned": trial.span.training,
    "cwd": str(pathlib.Path.cwd()),
}}))
"""
"""A last cell, by which the test gets what the cells before it came to."""


@dataclass(frozen=True)
class Executed:
    """The notebook after its run, and what it handed over."""

    notebook: nbformat.NotebookNode
    there: Path
    stores_before: Mapping[str, object]
    left_the_machine: str

    @property
    def comparison(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.there / "comparison.json").read_text())
        return found

    def rows(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.there / f"{name}.parquet").to_pylist()
        return rows

    def output(self, cell: str) -> dict[str, Any]:
        """What the cell of this id shows, by MIME type."""
        (found,) = [one for one in self.notebook.cells if one.id == cell]
        return dict(found.outputs[-1].data)


def stores(market: Market) -> dict[str, object]:
    """What would differ if something had been written: the lake's snapshot, MLflow's entries, the receipts."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=market.registry.uri, registry_uri=market.registry.uri)
    experiments = sorted(one.name for one in client.search_experiments())
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    tables = ProjectTables(market.model)
    return {
        "snapshot": market.warehouse.snapshot(),
        "experiments": experiments,
        "runs": {one.info.run_id: one.data.to_dictionary() for one in runs},
        "versions": sorted((one.name, one.version, str(one.aliases)) for one in client.search_model_versions()),
        "receipts": {
            key: [one.id for one in Ledger.of(market.environment).current(key.to_user_string()).values()]
            for key in (market.model.training_set.key, tables.candidate, tables.evaluation, tables.champion)
        },
        "files": sorted(
            str(path.relative_to(market.environment.home))
            for folder in (Path(market.environment.data), market.environment.mlflow_artifacts.parent)
            for path in folder.rglob("*")
            if not path.name.endswith(("-wal", "-shm"))
        ),
    }


@pytest.fixture(scope="module")
def executed(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    folder = tmp_path_factory.mktemp("elsewhere")
    log = folder / "left_the_machine.log"
    before = stores(market)
    notebook = nbformat.read(lab.prepare(market.environment), as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(HANDED_OVER.format(there=str(folder))))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HEADWATER_")]:
            patch.delenv(name)
        for name, value in lab.variables(market.environment).items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(market.code), str(REPOSITORY / "tests" / "guard")]))
        patch.setenv("HW_GUARD_LOG", str(log))
        client = NotebookClient(notebook, timeout=PATIENCE_SECONDS, resources={"metadata": {"path": str(folder)}})
        client.execute(env=dict(os.environ))
    return Executed(notebook, folder, before, log.read_text() if log.exists() else "")


def as_known(view: FeatureView, rows: list[dict[str, Any]], key: object, moment: datetime) -> dict[str, object]:
    """By plain loops: the newest row of `key` that was known and not too old, and when it was known."""
    (name,) = view.keys
    found: dict[str, object] = {}
    for week in WEEKS:
        for row in rows:
            at = view.known_at(week)
            if (row[name], row["partition_key"]) == (key, week) and moment - view.ttl <= at <= moment:
                found = {feature.name: row[feature.read_from] for feature in view.features}
                found[f"{view.name}_known_at"] = at
    return found


def test_every_cell_ran_and_none_failed(executed: Executed) -> None:
    cells = [cell for cell in executed.notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert [output for cell in cells for output in cell.outputs if output.output_type == "error"] == []
    assert [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize(("name", "view", "asked"), [("habits", HOUSEHOLD_HABITS, 6), ("prices", PRODUCT_PRICES, 5)])
def test_its_features_are_what_was_known_at_the_time_of_each_row(
    executed: Executed, name: str, view: FeatureView, asked: int
) -> None:
    stored = {"habits": household_weeks, "prices": product_weeks}[name]().to_pylist()
    (key,) = view.keys
    rows = executed.rows(name)
    assert len(rows) == asked
    for row in rows:
        known = as_known(view, stored, row[key], row["event_timestamp"])
        chosen = {column: value for column, value in row.items() if column not in (key, "event_timestamp")}
        assert chosen == {column: known[column] for column in chosen}


def test_a_minute_before_the_week_ends_its_values_are_not_known_yet(executed: Executed) -> None:
    moments = [row["household_habits_known_at"] for row in executed.rows("habits")]
    assert all(moment < HOUSEHOLD_HABITS.known_at(WEEKS[-1]) for moment in moments[:3])
    assert moments[3:] == [HOUSEHOLD_HABITS.known_at(WEEKS[-1])] * 3


def test_the_variation_is_compared_with_the_champion_that_serves(market: Market, executed: Executed) -> None:
    found = executed.comparison
    assert (found["model"], found["fold"]) == ("commerce.household_spend", FOLDS[-1])
    assert len(found["learned"]) == market.model.window.training // 2
    low, difference, high = found["interval"]
    assert low <= difference <= high
    errors = found["errors"]
    assert difference == pytest.approx(errors["trial"] / errors["champion"] - 1)
    evaluation = TableName.of_key(ProjectTables(market.model).evaluation)
    with market.warehouse.reader() as lake:
        stored = market.warehouse.relation(lake, evaluation, [FOLDS[-1]]).to_arrow_table().to_pylist()
    # The champion was judged as candidate on the very same holdout.
    assert errors["champion"] == next(row["error"] for row in stored if row["kind"] == "candidate")
    assert "Against the champion, where below zero is better: " in executed.output("compare")["text/markdown"]


@pytest.mark.parametrize("cell", ["importance", "calibration", "errors"])
def test_plots_are_images_in_the_outputs(executed: Executed, cell: str) -> None:
    assert base64.b64decode(executed.output(cell)["image/png"]).startswith(b"\x89PNG")


def test_nothing_was_written_and_nothing_left_the_machine(market: Market, executed: Executed) -> None:
    assert stores(market) == executed.stores_before
    assert executed.left_the_machine == ""


def test_it_finds_the_lake_from_any_folder(executed: Executed) -> None:
    assert executed.comparison["cwd"] == str(executed.there)


def test_the_repositorys_notebook_has_no_outputs_and_no_paths() -> None:
    notebook = nbformat.read(lab.TUTORIAL, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert str(REPOSITORY) not in lab.TUTORIAL.read_text()
    assert not [cell.source for cell in code if '"/' in cell.source]
