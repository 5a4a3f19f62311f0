"""Recovery from the web UI's launchpad: one job for each use, which plans and launches as the commands do.

Belongs here: configurations and ops. Not here: what is planned or launched (`roots.py`, `launching.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field

from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.plans.launching import REFUSALS, dagster_of, launch
from platform_assets.plans.plan import Plan, from_json, to_json
from platform_assets.plans.request import PlanRequest, plan_for
from platform_assets.plans.roots import PairStates
from resources.dbt import Dbt
from resources.environment import Environment


class PlanConfig(dg.Config):
    """A plan as headwater plan wrote it."""

    plan: dict[str, Any] = Field(description="The JSON of headwater plan --json, pasted as it is.")


class ChangedConfig(dg.Config):
    """What changed."""

    pairs: list[str] = Field(description="Pairs that changed, as team/entity@2017-03-01..2017-03-31.")
    dry_run: bool = Field(default=False, description="Only show the plan.")


class UnhealthyConfig(dg.Config):
    """What is to be healed."""

    assets: list[str] = Field(default=[], description="Assets or teams; empty: all of them.")
    partitions: str | None = Field(default=None, description="Only these partitions, as 2017-03-01..2017-03-31.")
    dry_run: bool = Field(default=False, description="Only show the plan.")


class CodeConfig(dg.Config):
    """Since when code may have changed."""

    git_ref: str = Field(description="Commit, tag or branch that the stored pairs were built from.")
    dry_run: bool = Field(default=False, description="Only show the plan.")


@dg.op
def launch_plan(context: dg.OpExecutionContext, config: PlanConfig, checker: PartitionChecker) -> None:
    """Carries out a plan."""
    with _refusals():
        _launch(context, checker, from_json(config.plan), dry_run=False)


@dg.op
def plan_changed(context: dg.OpExecutionContext, config: ChangedConfig, checker: PartitionChecker, dbt: Dbt) -> None:
    """Rebuilds pairs that changed and what depends on them."""
    _plan_and_launch(context, checker, dbt, PlanRequest(changed=config.pairs), config.dry_run)


@dg.op
def plan_unhealthy(
    context: dg.OpExecutionContext, config: UnhealthyConfig, checker: PartitionChecker, dbt: Dbt
) -> None:
    """Rebuilds pairs that are not verified and what depends on them."""
    request = PlanRequest(heals=True, assets=config.assets, partitions=config.partitions)
    _plan_and_launch(context, checker, dbt, request, config.dry_run)


@dg.op
def plan_code(context: dg.OpExecutionContext, config: CodeConfig, checker: PartitionChecker, dbt: Dbt) -> None:
    """Rebuilds what a change of dbt models concerns."""
    _plan_and_launch(context, checker, dbt, PlanRequest(code_since=config.git_ref), config.dry_run)


def build_recovery() -> dg.Definitions:
    """The jobs; each is one op."""

    def job(name: str, op: dg.OpDefinition) -> dg.JobDefinition:
        @dg.job(name=name, description=op.description)
        def made() -> None:
            op()

        return made

    return dg.Definitions(
        jobs=[
            job("recover_plan", launch_plan),
            job("recover_changed", plan_changed),
            job("recover_unhealthy", plan_unhealthy),
            job("recover_code", plan_code),
        ]
    )


@contextmanager
def _refusals() -> Iterator[None]:
    """What the commands would say is what the failed step says first, without a traceback above it."""
    try:
        yield
    except REFUSALS as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _plan_and_launch(
    context: dg.OpExecutionContext, checker: PartitionChecker, dbt: Dbt, request: PlanRequest, dry_run: bool
) -> None:
    with _refusals():
        plan = plan_for(PairStates.now(checker.inspector(context.instance)), request, dbt)
        _launch(context, checker, plan, dry_run)


def _launch(context: dg.OpExecutionContext, checker: PartitionChecker, plan: Plan, dry_run: bool) -> None:
    metadata: dict[str, Any] = {"plan": dg.MetadataValue.json(to_json(plan)), "pairs": plan.pair_count}
    if plan.pair_count and not dry_run:
        with dagster_of(Environment.current(), may_start=False) as client:
            launched = launch(plan, checker.inspector(context.instance), client)
        metadata |= _backfill_link(launched.backfill)
    context.add_output_metadata(metadata)


def _backfill_link(backfill: str | None) -> Mapping[str, Any]:
    if backfill is None:
        return {}
    return {"backfill": dg.MetadataValue.url(f"/runs/b/{backfill}")}
