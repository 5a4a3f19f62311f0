"""The registry finds models by partition, never duplicates one, and moves the champion only forward."""

import uuid
from collections.abc import Callable
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


def test_equal_bytes_of_other_parameters_are_a_candidate_of_their_own(registry: ModelRegistry, name: str) -> None:
    first = logged(registry, name, "2017-06-05", "tree")
    version = registry.register(first)
    other = registry.log_candidate(name, "2017-06-05", "tree", {"seed": 8}, {"dagster_run_id": "run-2"})
    assert (other.digest, other.run_id != first.run_id) == (first.digest, True)
    assert registry.candidate(name, "2017-06-05").run_id == other.run_id
    # What serves has not changed: the version, its file and the run that first gave it are still found.
    assert registry.register(other) == registry.registered(name, "2017-06-05") == version
    assert registry.load(version) == "tree"
    more = registry.log_candidate(name, "2017-06-05", "tree", {"seed": 8, "rounds": 3}, {})
    assert set(runs(registry, name)) == {first.run_id, more.run_id}


def test_equal_bytes_and_parameters_are_the_same_run_whoever_logs_them(registry: ModelRegistry, name: str) -> None:
    from mlflow import MlflowClient

    first = logged(registry, name, "2017-06-05", "tree")
    again = registry.log_candidate(name, "2017-06-05", "tree", {"seed": 7}, {"dagster_run_id": "run-2"})
    assert again == first
    assert runs(registry, name) == [first.run_id]
    run = MlflowClient(tracking_uri=registry.uri).get_run(first.run_id)
    assert run.data.tags["dagster_run_id"] == "run-2"


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2])


def overwritten(file: Path) -> None:
    file.write_bytes(b"\x80\x04\xff no text")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(Path.unlink, "is gone"), (truncated, "was changed"), (overwritten, "was changed")],
)
def test_a_lost_or_changed_model_file_is_named_with_what_to_do(
    registry: ModelRegistry, name: str, damage: Callable[[Path], None], message: str
) -> None:
    version = registry.register(logged(registry, name, "2017-06-05", "tree"))
    (file,) = Path(registry.artifacts, name).rglob("model.txt")
    damage(file)
    said = rf"{name} 2017-06-05: its file .*/model\.txt {message}.*materialize that partition of the model again"
    with pytest.raises(RegistryError, match=said):
        registry.load(version)
    with pytest.raises(RegistryError, match=said):
        registry.candidate(name, "2017-06-05")
    assert logged(registry, name, "2017-06-05", "tree").digest == version.digest
    assert registry.load(version) == "tree"


def test_a_database_that_is_none_is_named_with_what_was_asked_and_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "mlflow.sqlite").write_bytes(b"no database" * 1000)
    broken = ModelRegistry(uri=f"sqlite:///{tmp_path / 'mlflow.sqlite'}", artifacts=str(tmp_path / "artifacts"))
    said = rf"{name} 2017-06-05: the model registry .*mlflow\.sqlite cannot be used .*not a database.*put back a sound"
    with pytest.raises(RegistryError, match=said):
        broken.candidate(name, "2017-06-05")
    with pytest.raises(RegistryError, match=said):
        logged(broken, name, "2017-06-05", "tree")
    assert not (tmp_path / "artifacts").exists()


def test_a_database_that_is_damaged_while_it_is_open_is_named_and_works_again_once_put_back(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / "mlflow.sqlite"
    own = ModelRegistry(uri=f"sqlite:///{file}", artifacts=str(tmp_path / "artifacts"))
    candidate = logged(own, name, "2017-06-05", "tree")
    version, sound = own.register(candidate), file.read_bytes()
    file.write_bytes(sound[: len(sound) // 2])
    for ask in (
        lambda: own.candidate(name, "2017-06-05"),
        lambda: own.registered(name, "2017-06-05"),
        lambda: own.register(candidate),
        lambda: own.load(version),
        lambda: own.log_metrics(candidate.run_id, {"wape": 0.5}),
    ):
        with pytest.raises(RegistryError, match=r"mlflow\.sqlite cannot be used .*; put back a sound copy"):
            ask()
    file.write_bytes(sound)
    assert own.registered(name, "2017-06-05") == version
