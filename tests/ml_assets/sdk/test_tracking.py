"""What MLflow is told of a search: its trials, under the run of the candidate that they led to."""

from pathlib import Path

import pytest

from ml_assets.sdk.search import Trial
from ml_assets.sdk.tracking import log_trials
from resources.model_registry import Candidate, ModelRegistry

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

NAME, WEEK = "commerce.busy", "2017-03-06"
TRIALS = (Trial({"C": 0.1}, 0.5), Trial({"C": 1.0}, 0.4), Trial({"C": 9.0}, float("inf")))


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(uri=f"sqlite:///{tmp_path / 'mlflow.sqlite'}", artifacts=str(tmp_path / "artifacts"))


def searched(registry: ModelRegistry, text: str) -> Candidate:
    candidate = registry.log_candidate(NAME, WEEK, text, {"C": 1.0}, {})
    log_trials(registry, candidate, "log_loss", TRIALS)
    return candidate


def trials(registry: ModelRegistry) -> dict[str, list[tuple[str, float | None]]]:
    """By the run that they are under, each trial's parameter and error, in order."""
    with registry.client(NAME) as client:
        experiment = client.get_experiment_by_name(NAME)
        assert experiment is not None
        found: dict[str, list[tuple[str, float | None]]] = {}
        for run in client.search_runs([experiment.experiment_id], "tags.trial LIKE '%'", order_by=["tags.trial"]):
            parent = run.data.tags["mlflow.parentRunId"]
            found.setdefault(parent, []).append((run.data.params["C"], run.data.metrics.get("log_loss")))
    return found


EXPECTED = [("0.1", 0.5), ("1.0", 0.4), ("9.0", None)]


def test_trials_are_runs_under_the_candidates_and_are_not_repeated(registry: ModelRegistry) -> None:
    first = searched(registry, "model")
    assert searched(registry, "model") == first
    assert trials(registry) == {first.run_id: EXPECTED}
    assert registry.candidate(NAME, WEEK) == first


def test_a_registered_version_keeps_its_trials_and_a_dropped_candidate_does_not(registry: ModelRegistry) -> None:
    served = searched(registry, "model")
    registry.register(served)
    searched(registry, "a refused model")
    newest = searched(registry, "the newest model")
    assert trials(registry) == {served.run_id: EXPECTED, newest.run_id: EXPECTED}
