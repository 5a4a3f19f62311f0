"""A pair counts as built once everything that judges it has passed, in its partition."""

import json
from collections.abc import Mapping
from typing import Any

from platform_assets.dbt_models.results import Findings, Found, NodeResult, Outcome

DAYS = ["2017-03-01", "2017-03-02", "2017-03-03"]


def result(unique_id: str, status: str = "success") -> NodeResult:
    return NodeResult(unique_id, status, f"{unique_id}: {status}", 0.1)


def outcome(partitions: list[str] = DAYS) -> Outcome:
    tests = {"model.a": {"test.a1", "test.ab"}, "model.b": {"test.ab"}, "model.c": set[str]()}
    return Outcome({model: frozenset(those) for model, those in tests.items()}, partitions)


def ended(state: Outcome, *results: NodeResult) -> dict[str, list[str]]:
    return {model.unique_id: good for one in results for model, good in state.add(one)}


def told(*rows: Mapping[str, Any]) -> Findings:
    said = json.dumps({"test": "test.a1", "found": list(rows)})
    found = Findings.of_event({"info": {"name": "JinjaLogInfo", "msg": f"headwater judged {said}"}})
    assert found
    assert found[0] == "test.a1"
    return found[1]


def row(partition: str | None, failures: int, *, fails: bool = True, has_rows: bool = True) -> dict[str, Any]:
    return {"partition": partition, "failures": failures, "warns": fails, "fails": fails, "has_rows": has_rows}


NOTHING = row(None, 0, fails=False, has_rows=False)


def test_a_model_without_tests_is_recorded_when_built() -> None:
    assert ended(outcome(), result("model.c")) == {"model.c": DAYS}


def test_a_model_waits_for_all_its_tests() -> None:
    state = outcome()
    assert ended(state, result("model.a"), result("test.a1", "pass"), result("model.b")) == {}
    assert ended(state, result("test.ab", "pass")) == {"model.a": DAYS, "model.b": DAYS}
    assert state.broken == ["model.c"]
    assert state.reasons()[-1] == "model.c did not run"


def test_a_failed_test_withholds_the_partitions_it_failed_in_of_the_model_it_judges() -> None:
    state = outcome()
    state.findings["test.a1"] = told(row(DAYS[1], 3), NOTHING)
    found = ended(state, *map(result, ("model.a", "model.b", "model.c")), result("test.ab", "pass"))
    assert found == {"model.b": DAYS, "model.c": DAYS}
    assert ended(state, result("test.a1", "fail")) == {"model.a": [DAYS[0], DAYS[2]]}
    assert state.broken == ["model.a"]
    assert state.bad("model.a") == [DAYS[1]]
    assert state.reasons() == ["test.a1: fail in 2017-03-02"]
    assert [state.found("test.a1", day).failures for day in DAYS] == [0, 3, 0]


def test_a_test_that_fails_and_names_no_partition_of_the_run_fails_them_all() -> None:
    for judgement in (None, told(row(None, 2), NOTHING), told(row("2016-01-01", 2), NOTHING)):
        state = outcome()
        if judgement:
            state.findings["test.a1"] = judgement
        assert ended(state, result("model.a"), result("test.ab", "pass"), result("test.a1", "fail"))["model.a"] == []
        assert state.failing("test.a1") == frozenset(DAYS)


def test_partitions_without_a_row_fail_where_no_row_is_too_few() -> None:
    state = outcome()
    state.findings["test.a1"] = told(row(DAYS[0], 7, fails=False), row(None, 0, has_rows=False))
    ended(state, result("model.a"), result("test.ab", "pass"))
    assert ended(state, result("test.a1", "fail")) == {"model.a": [DAYS[0]]}


def test_a_warning_withholds_nothing_and_is_told_by_partition() -> None:
    state = outcome()
    state.findings["test.a1"] = told(row(DAYS[2], 1), NOTHING)
    ended(state, result("model.a"), result("test.ab", "pass"))
    assert ended(state, result("test.a1", "warn")) == {"model.a": DAYS}
    assert state.warning("test.a1") == {DAYS[2]}
    assert state.failing("test.a1") == frozenset()


def test_a_test_that_broke_withholds_everything_it_judges() -> None:
    state = outcome()
    ended(state, result("model.a"), result("test.ab", "pass"))
    assert ended(state, result("test.a1", "error")) == {"model.a": []}
    assert not state.results["test.a1"].judged


def test_what_dbt_left_out_because_of_a_failure_is_not_bad_but_comes_later() -> None:
    state = outcome()
    ended(state, result("model.a", "error"), result("model.c"))
    assert state.broken == ["model.a"]
    assert state.bad("model.b") == []
    assert state.reasons() == ["model.a: error"]


def test_a_model_that_was_not_tested_to_the_end_loses_the_partitions_known_to_fail() -> None:
    state = outcome()
    state.findings["test.a1"] = told(row(DAYS[1], 3), NOTHING)
    ended(state, result("model.a"), result("test.a1", "fail"), result("model.b"))
    assert (state.bad("model.a"), state.bad("model.b")) == ([DAYS[1]], [])


def test_a_model_without_partitions_has_one_pair() -> None:
    state = outcome([""])
    state.findings["test.a1"] = told(row(None, 2), NOTHING)
    ended(state, result("model.a"), result("test.ab", "pass"))
    assert ended(state, result("test.a1", "fail")) == {"model.a": []}
    assert state.reasons()[0] == "test.a1: fail"


def test_other_lines_of_the_log_tell_nothing() -> None:
    assert Findings.of_event({"info": {"name": "JinjaLogInfo", "msg": "hello"}}) is None
    assert Findings.of_event({"info": {"name": "LogStartLine", "msg": "headwater judged {}"}}) is None
    assert Findings().of("2017-03-01") == Found(0, False, False)


def test_a_test_that_never_runs_points_to_stale_definitions() -> None:
    state = Outcome({"model.a": frozenset({"test.gone"})}, DAYS)
    assert ended(state, result("model.a")) == {}
    assert state.reasons() == [
        "the dbt project changed since these definitions were loaded; reload them",
        "test.gone did not run",
    ]
