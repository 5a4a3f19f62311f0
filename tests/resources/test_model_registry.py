"""The registry finds models by partition, never duplicates one, and moves the champion only forward."""

import uuid
from pathlib import Path

import pytest

from resources.model_registry import CHAMPION, Candidate, ModelRegistry, RegistryError

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    home = tmp_path_factory.mktemp("mlflow")
    return ModelRegistry(uri=f"sqlite:///{home / 'new' / 'mlflow.sqlite'}", artifacts=str(home / "artifacts"))


@pytest.fixture
def name() -> str:
    return f"test.{uuid.uuid4().hex[:8]}"


def logged(registry: ModelRegistry, name: str, partition: str, text: str) -> Candidate:
    return registry.log_candidate(name, partition, text, {"seed": 7}, {"dagster_run_id": "run-1"})


def registered(registry: ModelRegistry, name: str, partition: str, text: str) -> int:
    return registry.register(logged(registry, name, partition, text)).version


def runs(registry: ModelRegistry, name: str) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=registry.uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return [run.info.run_id for run in client.search_runs([experiment.experiment_id])]


def test_a_registered_model_is_loaded_back_by_its_partition(registry: ModelRegistry, name: str) -> None:
    registry.register(logged(registry, name, "2017-06-05", "tree one"))
    version = registry.registered(name, "2017-06-05")
    assert registry.load(version) == "tree one"
    assert version.champion


def test_parameters_tags_and_metrics_are_on_the_run(registry: ModelRegistry, name: str) -> None:
    from mlflow import MlflowClient

    candidate = logged(registry, name, "2017-06-05", "tree")
    registry.log_metrics(candidate.run_id, {"wape_model": 0.5})
    data = MlflowClient(tracking_uri=registry.uri).get_run(candidate.run_id).data
    assert data.params == {"seed": "7"}
    assert data.metrics == {"wape_model": 0.5}
    assert data.tags["dagster_run_id"] == "run-1"
    assert data.tags["partition"] == "2017-06-05"


def test_building_a_partition_again_with_equal_bytes_changes_nothing(registry: ModelRegistry, name: str) -> None:
    first = registered(registry, name, "2017-06-05", "tree")
    before = runs(registry, name)
    assert registered(registry, name, "2017-06-05", "tree") == first
    assert runs(registry, name) == before


def test_building_a_partition_again_with_other_bytes_replaces_its_version(registry: ModelRegistry, name: str) -> None:
    first = registered(registry, name, "2017-06-05", "tree")
    second = registered(registry, name, "2017-06-05", "another tree")
    assert second != first
    assert registry.load(registry.registered(name, "2017-06-05")) == "another tree"
    assert registry.registered(name).version == second
    assert len(runs(registry, name)) == 1


def test_a_candidate_that_is_not_registered_leaves_the_registered_one_alone(registry: ModelRegistry, name: str) -> None:
    registered(registry, name, "2017-06-05", "good tree")
    logged(registry, name, "2017-06-05", "refused tree")
    logged(registry, name, "2017-06-05", "newest tree")
    assert registry.candidate(name, "2017-06-05").text == "newest tree"
    assert registry.load(registry.registered(name, "2017-06-05")) == "good tree"
    assert len(runs(registry, name)) == 2


def test_the_champion_is_the_newest_partition_whatever_the_order(registry: ModelRegistry, name: str) -> None:
    for partition in ("2017-06-12", "2017-06-26", "2017-06-05", "2017-06-19"):
        registered(registry, name, partition, f"tree of {partition}")
    assert registry.registered(name, CHAMPION).partition == "2017-06-26"
    registered(registry, name, "2017-06-12", "rebuilt tree")
    assert registry.registered(name).partition == "2017-06-26"
    assert not registry.registered(name, "2017-06-12").champion


def test_a_partition_without_a_version_is_named_with_what_to_do(registry: ModelRegistry, name: str) -> None:
    registered(registry, name, "2017-06-05", "tree")
    with pytest.raises(RegistryError, match="no version .* for 2017-06-12 .* did not pass its gate"):
        registry.registered(name, "2017-06-12")
    with pytest.raises(RegistryError, match="no candidate .* for 2017-06-12"):
        registry.candidate(name, "2017-06-12")


@pytest.mark.parametrize(("damage", "message"), [(Path.unlink, "is gone"), (Path.touch, "was changed")])
def test_a_lost_or_changed_model_file_is_named_with_what_to_do(
    registry: ModelRegistry, name: str, damage, message: str
) -> None:
    candidate = logged(registry, name, "2017-06-05", "tree")
    version = registry.register(candidate)
    (file,) = Path(registry.artifacts, name).rglob("model.txt")
    file.write_text("changed")
    damage(file)
    with pytest.raises(RegistryError, match=f"2017-06-05.*{message}"):
        registry.load(version)
