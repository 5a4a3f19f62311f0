"""A plan is launched for the environment and the graph that it was made for, and what is done of it is not done again.

Refusals come before Dagster is asked for anything: nobody answers then.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count

import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from platform_assets.instance.client import BackfillStatus, Client, DagsterRefused
from platform_assets.partition_checker.checker import PLAN
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


class Dagster(Client):
    """A Dagster that is told of backfills, and may be gone before it answers."""

    def __init__(self, shop: Shop) -> None:
        super().__init__("http://127.0.0.1:9")
        self.instance, self.ledger = shop.instance, shop.ledger
        self.ends: Callable[[], None] = lambda: None
        self.known_when_launched: list[bool] = []

    def launch_backfill(self, title: str, ranges: object, tags: Mapping[str, str]) -> str:
        known = self.ledger.recovery(tags[PLAN])
        self.known_when_launched.append(known is not None and bool(known.roots))
        number = f"backfill-{len(self.known_when_launched)}"
        self.ends()
        self.instance.add_backfill(
            PartitionBackfill(number, BulkActionStatus.REQUESTED, False, dict(tags), time.time(), asset_selection=[])
        )
        self.ends()
        return number

    def backfill(self, backfill_id: str) -> BackfillStatus:
        return BackfillStatus(backfill_id, "REQUESTED", 3, 0, 0, None)


class Killed(BaseException):
    """The process ends."""


def test_the_first_run_of_a_recovery_finds_it_however_early_it_begins(built: Shop) -> None:
    dagster = Dagster(built)
    plan = planned(built, f"shop/evens@{DAY}")
    assert launch(plan, built.inspector(), dagster).backfill == "backfill-1"
    assert dagster.known_when_launched == [True]


@pytest.mark.parametrize(("ends_at", "launched"), [(1, ["backfill-2"]), (2, ["backfill-1"])])
def test_a_launch_that_was_killed_makes_no_second_backfill(built: Shop, ends_at: int, launched: list[str]) -> None:
    dagster, calls = Dagster(built), count(1)

    def ends() -> None:
        if next(calls) == ends_at:
            raise Killed

    dagster.ends = ends
    plan = planned(built, f"shop/evens@{DAY}")
    with pytest.raises(Killed):
        launch(plan, built.inspector(), dagster)
    again = launch(plan, built.inspector(), dagster)
    assert again.already_running == (ends_at == 2)
    known = built.ledger.recovery(plan.id)
    assert known is not None
    assert (list(known.backfills), known.is_begun) == (launched, False)
    assert [backfill.backfill_id for backfill in built.instance.get_backfills()] == launched


def test_what_dagster_refuses_leaves_nothing(built: Shop) -> None:
    def refuses() -> None:
        raise DagsterRefused("no such partition")

    dagster = Dagster(built)
    dagster.ends = refuses
    plan = planned(built, f"shop/evens@{DAY}")
    with pytest.raises(DagsterRefused):
        launch(plan, built.inspector(), dagster)
    assert built.ledger.recovery(plan.id) is None
