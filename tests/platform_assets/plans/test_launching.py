"""A plan is launched for the environment and the graph that it was made for, and what is done of it is not done again.

Refusals come before Dagster is asked for anything: here nobody answers.
"""

import json
from dataclasses import replace

import pytest

from platform_assets.instance.client import Client
from platform_assets.plans.launching import Launched, RecoveryRefused, launch
from platform_assets.plans.plan import Plan, from_json, to_json
from platform_assets.plans.roots import PairStates, changed
from tests.platform_assets.partition_checker.shop import DAYS, Shop

NOBODY = Client("http://127.0.0.1:9")
DAY = DAYS[3]


def planned(shop: Shop, words: str) -> Plan:
    situation = PairStates.now(shop.inspector())
    return situation.plan(changed(situation.graph, [words]))


def carried_out(shop: Shop) -> Plan:
    """A plan for a day of evens and what depends on it, of which all but the last asset is done."""
    plan = planned(shop, f"shop/evens@{DAY}")
    assert shop.build("evens", "sums", first=DAY, last=DAYS[4]).success
    assert shop.build("weeks", first=DAYS[0]).success
    return plan


def test_a_plan_for_another_environment_is_refused_with_both_names(built: Shop) -> None:
    plan = replace(planned(built, f"shop/evens@{DAY}"), environment="dev-ann")
    with pytest.raises(RecoveryRefused, match="made for the environment dev-ann, this is prod: set HEADWATER_ENV"):
        launch(plan, built.inspector(), NOBODY)


def test_a_plan_for_an_older_graph_is_refused_with_what_changed(built: Shop) -> None:
    plan = planned(built, f"shop/evens@{DAY}")
    built.declare("evens", immutable_before=DAYS[7])
    with pytest.raises(RecoveryRefused, match=f"make the plan again:\nshop/evens@{DAY} has become immutable"):
        launch(plan, built.inspector(), NOBODY)


def test_a_plan_that_is_done_does_nothing(built: Shop) -> None:
    plan = carried_out(built)
    assert built.build("summary").success
    assert launch(plan, built.inspector(), NOBODY) == Launched(plan.id, None, 0)


def test_what_has_changed_of_pairs_that_are_done_keeps_nobody_from_the_rest(built: Shop) -> None:
    plan = from_json(json.loads(json.dumps(to_json(carried_out(built)))))
    built.declare("evens", immutable_before=DAYS[7])
    with pytest.raises(OSError, match="refused"):
        launch(plan, built.inspector(), NOBODY)
