"""The real conditions request at every look just what the model requests, on a real instance."""

import os

import dagster as dg
import pytest

from platform_assets.automation import when_upstream_complete
from tests.automation.model import PRODUCT, Model, Rules, played, schedule
from tests.automation.reality import Reality, definitions
from tests.automation.test_model import CORRECTED_MEANWHILE, asked_twice

SCHEDULES = int(os.environ.get("HEADWATER_TEST_SCHEDULES", "20"))
"""How many; `make soak` asks for 300, as they come. In the suite they are such as make a look dear worth it."""

_LOOKS, _EVENTS = 9, 45


def looks(model: Model) -> int:
    """How often automation looked."""
    return sum(what == "look" for what, *_ in model.trace or ())


def chosen() -> list[int]:
    """The seeds of the schedules."""
    if SCHEDULES > 20:
        return list(range(SCHEDULES))
    found: list[int] = []
    seed = 0
    while len(found) < SCHEDULES:
        model, _ = played(schedule(seed), traced=True)
        if looks(model) <= _LOOKS and len(model.trace or ()) >= _EVENTS:
            found.append(seed)
        seed += 1
    return found


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return definitions()


@pytest.mark.parametrize("seed", chosen())
def test_model_and_reality_agree(seed: int, defs: dg.Definitions) -> None:
    model, wrong = played(schedule(seed), traced=True)
    assert wrong == []
    with dg.DagsterInstance.ephemeral() as instance:
        Reality(instance, defs).follow(model)


def test_what_is_confirmed_holds_back_nobody_in_reality(defs: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        Reality(instance, defs).follow(asked_twice(PRODUCT))


def test_what_is_to_be_built_upon_something_older_is_not_asked_for_yet_in_reality(defs: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        Reality(instance, defs).follow(played(CORRECTED_MEANWHILE, traced=True)[0])


def test_a_planned_evaluation_that_never_comes_was_a_stall_in_reality_too() -> None:
    def once(spec: dg.AssetSpec) -> dg.AutomationCondition[dg.AssetKey]:
        return when_upstream_complete(spec) & dg.AutomationCondition.all_deps_blocking_checks_passed()

    model = asked_twice(Rules(planned_holds_back=True, confirming_answers=False))
    assert model.complaints() == ["weeks@2017-01-09: it could be built and is missing"]
    with dg.DagsterInstance.ephemeral() as instance:
        Reality(instance, definitions(once)).follow(model)
