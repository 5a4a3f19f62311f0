"""A home that was moved takes its models along: MLflow's database names their files by where they were."""

from pathlib import Path

import pytest

from resources.environment import Environment
from resources.home import open_home
from resources.model_registry import ModelRegistry
from resources.moving import move
from resources.warehouse import Warehouse

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def test_models_of_a_moved_home_are_read_where_it_is_now(environment: Environment, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    open_home(environment, ())
    Warehouse.of(environment).snapshot()
    registry = ModelRegistry.of(environment)
    registry.register(registry.log_candidate("shop.tree", "2017-06-05", "a tree", {"seed": 7}, {}))
    moved = Environment.of({"HEADWATER_HOME": str(tmp_path / "moved?" / "home")})
    moved.home.parent.mkdir()
    environment.home.rename(moved.home)
    for _ in range(2):
        move(moved)
        there = ModelRegistry.of(moved)
        version = there.registered("shop.tree", "2017-06-05")
        assert there.load(version) == "a tree"
        assert there.file(version.run_id).is_relative_to(moved.home)
        run = MlflowClient(tracking_uri=there.uri).get_run(version.run_id)
        assert run.info.artifact_uri.startswith(moved.mlflow_artifacts.as_uri())
    other = there.register(there.log_candidate("shop.tree", "2017-06-12", "another tree", {"seed": 7}, {}))
    assert there.load(there.registered("shop.tree", "2017-06-12")) == "another tree"
    assert there.file(other.run_id).is_relative_to(moved.home)
    assert not environment.home.exists()
