"""Whatever happens in whatever order: what can be built is built, once, and nothing goes on for ever."""

import pytest

from tests.automation.model import ACTIVE, PARENT, PRODUCT, SUCCESS, Model, Rules, played, schedule, shrunk
from tests.automation.world import NUMBER

SCHEDULES = 10_000


def asked_twice(rules: Rules) -> Model:
    """Three days are built, asked for once more and confirmed, and only then comes what their week still lacks."""
    model = Model(rules, traced=True)
    for day in (1, 2, 3):
        model.deliver(0, day)
    model.settle()
    again = model.launch(((NUMBER["days"], 0b1110), (NUMBER["sums"], 0b1100)))
    while again.status in ACTIVE:
        model.go_on(again)
    model.look()
    model.deliver(2, 1)
    model.settle()
    return model


CORRECTED_MEANWHILE = [
    ("deliver", 0, 1), ("deliver", 0, 2), ("deliver", 0, 3), ("look", 0, 0), ("go on", 0, 0), ("deliver", 0, 3),
    ("go on", 0, 0), ("look", 0, 0), ("deliver", 2, 1),
]  # fmt: skip
"""A day is corrected while it is being built, so that its sum is built twice; then comes the plan of its week."""


def test_what_is_to_be_built_upon_something_older_is_not_asked_for_yet() -> None:
    """Once it was asked for at once, and refused by the gate: a red run for nothing."""
    model, wrong = played(CORRECTED_MEANWHILE)
    assert wrong == []
    assert {run.status for run in model.runs} == {SUCCESS}
    assert played(CORRECTED_MEANWHILE, Rules(waits_for_the_nearest=True))[1] == [
        "weeks@2017-01-09 was requested before sums@2017-01-10 was up to date"
    ]


def test_what_is_confirmed_holds_back_nobody() -> None:
    model = asked_twice(PRODUCT)
    assert model.complaints() == []
    assert model.recorded[NUMBER["weeks"]] == 0b10


def test_a_planned_evaluation_that_never_comes_was_a_stall_for_ever() -> None:
    (complaint,) = asked_twice(PARENT).complaints()
    assert complaint == "weeks@2017-01-09: it could be built and is missing"
    assert asked_twice(Rules(planned_holds_back=True)).complaints() == []
    assert asked_twice(Rules(confirming_answers=False)).complaints() == []


@pytest.mark.parametrize("half", [0, 1])
def test_everything_that_can_be_built_is_built_once_in_any_order(half: int) -> None:
    for seed in range(half, SCHEDULES, 2):
        model, wrong = played(schedule(seed))
        if wrong:
            steps = shrunk(schedule(seed))
            pytest.fail(f"schedule {seed}: {wrong}\nshortest: {steps}\n{played(steps, traced=True)[0].trace}")


@pytest.mark.parametrize("rule", [rule for rule in Rules._fields if rule != "confirming_answers"])
def test_each_rule_is_needed(rule: str) -> None:
    """The checks of confirmed pairs aside: nobody waits for an evaluation any more."""
    mutated = PARENT._replace(**{other: getattr(PRODUCT, other) for other in Rules._fields if other != rule})
    assert any(played(schedule(seed), mutated)[1] for seed in range(SCHEDULES))
