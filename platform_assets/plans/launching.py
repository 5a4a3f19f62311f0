"""Carrying out a plan as a Dagster backfill: exactly what of it remains, once, and never two that overlap.

Belongs here: what must hold before a plan is launched, launching it, following it. Not here: making plans
(`roots.py`, `planning.py`), building pairs (the steps do, and the early cut-off is theirs).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter

from platform_assets.asset_graph.published import GraphError
from platform_assets.asset_graph.selections import SelectionError
from platform_assets.automation import CUT_OFF
from platform_assets.instance.client import BackfillStatus, Client, DagsterRefused
from platform_assets.instance.services import ServiceError, running, running_at
from platform_assets.partition_checker.checker import PLAN
from platform_assets.partition_checker.facts import Inspector
from platform_assets.patience import Pace, Patience
from platform_assets.plans.plan import CodeChangesError, Plan, PlanError, ranges_of
from platform_assets.plans.planning import differences, remaining
from platform_assets.plans.roots import planned_assets
from resources.dbt import DbtError
from resources.environment import Environment
from resources.ledger import Launches, LedgerError, Recovery
from resources.warehouse import LakeError

_LOOK_SECONDS = 2.0
_SILENCE_SECONDS = 600
"""After this long without an answer Dagster is gone; until then it may be starting again, on a busy machine too."""


class RecoveryRefused(RuntimeError):
    """The plan cannot be launched; the message says why and what to do."""


REFUSALS = (
    RecoveryRefused, CodeChangesError, DagsterRefused, DbtError, GraphError, LakeError, LedgerError, PlanError,
    SelectionError, ServiceError,
)  # fmt: skip
"""Whatever keeps a recovery from being planned or launched: the messages are for people, and say what to do."""


@dataclass(frozen=True)
class Launched:
    """What came of launching a plan: the backfill that carries it out, None when nothing remained to be done."""

    plan_id: str
    backfill: str | None
    pairs: int
    already_running: bool = False


def launch(plan: Plan, inspector: Inspector, client: Client) -> Launched:
    """Launch what remains of a plan, unless it is being carried out already.

    A pair is done once it is verified and was recorded after the plan was made: launching a plan again retries exactly
    what failed.

    Raises:
        RecoveryRefused: made for another environment or graph, or another recovery works on some of the same pairs.
    """
    ledger = inspector.ledger
    if plan.environment != ledger.environment:
        raise RecoveryRefused(
            f"the plan was made for the environment {plan.environment}, this is {ledger.environment}: set "
            "HEADWATER_ENV to that, or make a plan here"
        )
    with ledger.launching() as launches:
        _settle(launches, inspector.instance)
        if (known := launches.get(plan.id)) and known.backfills:
            status = client.backfill(known.backfills[-1])
            if not status.ended:
                return Launched(plan.id, status.id, status.targeted, already_running=True)
        _refuse_overlap(plan, launches, client)
        left = remaining(plan, done_since(plan, inspector), {})
        if not left.pair_count:
            return Launched(plan.id, None, 0)
        if changes := differences(left, planned_assets(inspector.graph)):
            raise RecoveryRefused(
                "the asset graph is another one than when the plan was made, so make the plan again:\n"
                + "\n".join(changes)
            )
        # Noted first: the backfill's first run asks for the recovery, and may begin before this process goes on.
        launches.begin(_recovery(plan))
        try:
            backfill = client.launch_backfill(
                f"recovery of {left.pair_count} pairs", _ranges(left), {PLAN: plan.id, CUT_OFF: "true"}
            )
        except DagsterRefused:
            launches.drop(plan.id)
            raise
        launches.add(_recovery(plan), backfill)
    return Launched(plan.id, backfill, left.pair_count)


def _settle(launches: Launches, instance: dg.DagsterInstance) -> None:
    """Find out of each launch that was begun, by somebody who has ended since, whether Dagster heard of it."""
    for begun in launches.all():
        if begun.is_begun:
            since = datetime.fromtimestamp(begun.planned_at, UTC)
            made = [
                backfill.backfill_id
                for backfill in instance.get_backfills(BulkActionsFilter(created_after=since))
                if backfill.tags.get(PLAN) == begun.plan_id
            ]
            unknown = [backfill for backfill in made if backfill not in begun.backfills]
            if unknown:
                launches.add(begun, unknown[0])
            else:
                launches.drop(begun.plan_id)


def done_since(plan: Plan, inspector: Inspector) -> Callable[[str, str], bool]:
    """Tells of a pair whether it is verified and was recorded after the plan was made."""
    known = [selection.asset for selection in plan.selections if selection.asset in inspector.graph.named]
    judged = inspector.judged(dict.fromkeys(known))
    made = plan.created_at.timestamp()

    def done(asset: str, partition: str) -> bool:
        of_asset = judged.get(asset)
        at = of_asset.facts.place.get(partition) if of_asset else None
        if of_asset is None or at is None:
            return False
        return bool(of_asset.verified[at]) and of_asset.facts.recorded_at[at] >= made

    return done


def follow(backfill: str, client: Client, report: Callable[[BackfillStatus], None]) -> BackfillStatus:
    """Wait until nothing more will come of a backfill, telling `report` how far it is.

    Raises:
        RecoveryRefused: Dagster has stopped answering; the recovery goes on when it runs again.
    """
    patience, pace = Patience(_SILENCE_SECONDS), Pace(_LOOK_SECONDS)
    while True:
        try:
            status = client.backfill(backfill)
        except OSError as error:
            if patience.over("silent"):
                raise RecoveryRefused(
                    f"{client.url} has not answered for {_SILENCE_SECONDS} s ({error}); backfill {backfill} goes on "
                    "when Dagster runs again: headwater up"
                ) from error
        else:
            patience.still(status)
            report(status)
            if status.ended:
                return status
        pace.rest()


@contextmanager
def dagster_of(environment: Environment, may_start: bool) -> Iterator[Client]:
    """The Dagster that runs for `environment`, or one that runs for the time of the block.

    Raises:
        RecoveryRefused: none runs and none may be started.
    """
    url = running_at(environment)
    if url:
        yield Client(url)
        return
    if not may_start:
        raise RecoveryRefused(
            f"no Dagster runs for {environment.home}, so nothing would carry the plan out: start it with headwater up, "
            "or add --wait, which runs one until the recovery has ended"
        )
    with running(environment, port=0) as client:
        yield client


def _refuse_overlap(plan: Plan, launches: Launches, client: Client) -> None:
    mine = {selection.asset: set(selection.partitions) for selection in plan.selections}
    for other in launches.all():
        if other.plan_id == plan.id or not other.backfills:
            continue
        shared = [f"{asset}@{key}" for asset, keys in other.pairs.items() for key in mine.get(asset, set()) & set(keys)]
        if shared and not client.backfill(other.backfills[-1]).ended:
            raise RecoveryRefused(
                f"recovery {other.plan_id} (backfill {other.backfills[-1]}) is rebuilding {len(shared)} of the same "
                f"pairs, {shared[0]} for one: wait for it, or cancel it in the web UI, then launch this plan"
            )


def _ranges(plan: Plan) -> dict[dg.AssetKey, list[tuple[str, str]] | None]:
    return {dg.AssetKey(asset.split("/")): found for asset, found in ranges_of(plan).items()}


def _recovery(plan: Plan) -> Recovery:
    pairs = {selection.asset: selection.partitions for selection in plan.selections}
    return Recovery(plan.id, plan.created_at.timestamp(), pairs, plan.roots)
