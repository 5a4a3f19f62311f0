"""A model counts as built once everything that judges it has passed."""

from platform_assets.dbt_models.results import NodeResult, Verdicts


def result(unique_id: str, status: str = "success") -> NodeResult:
    return NodeResult(unique_id, status, f"{unique_id}: {status}", 0.1, 0)


def verdicts() -> Verdicts:
    return Verdicts(
        {
            "model.a": frozenset({"test.a1", "test.ab"}),
            "model.b": frozenset({"test.ab"}),
            "model.c": frozenset(),
        }
    )


def test_a_model_without_tests_is_recorded_when_built() -> None:
    assert [model.unique_id for model in verdicts().add(result("model.c"))] == ["model.c"]


def test_a_model_waits_for_all_its_tests() -> None:
    state = verdicts()
    assert list(state.add(result("model.a"))) == []
    assert list(state.add(result("test.a1", "pass"))) == []
    assert list(state.add(result("model.b"))) == []
    assert {model.unique_id for model in state.add(result("test.ab", "pass"))} == {"model.a", "model.b"}
    assert state.withheld == ["model.c"]


def test_a_failed_test_withholds_every_model_it_reads_and_says_why() -> None:
    state = verdicts()
    for step in (result("model.a"), result("model.b"), result("test.a1", "pass"), result("test.ab", "fail")):
        assert list(state.add(step)) == []
    assert state.withheld == ["model.a", "model.b", "model.c"]
    assert state.reasons() == ["test.ab: fail", "model.c did not run"]


def test_a_warning_withholds_nothing() -> None:
    state = Verdicts({"model.a": frozenset({"test.a1"})})
    assert list(state.add(result("model.a"))) == []
    assert [model.unique_id for model in state.add(result("test.a1", "warn"))] == ["model.a"]


def test_a_test_that_never_runs_points_to_stale_definitions() -> None:
    state = Verdicts({"model.a": frozenset({"test.gone"})})
    assert list(state.add(result("model.a"))) == []
    assert state.reasons() == [
        "the dbt project changed since these definitions were loaded; reload them",
        "test.gone did not run",
    ]
