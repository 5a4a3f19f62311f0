"""Every automation condition, named, with the reason it is what it is.

Belongs here: conditions and the constants that pace them. Not here: which asset uses which (its factory says so).
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.declarative_automation.operators.dep_operators import DepsAutomationCondition

from platform_assets.asset_graph.completeness import Completeness, completeness_of
from platform_assets.conditions import (
    ComesAgainCondition,
    OvertakenCondition,
    PartitionEndedCondition,
    UpstreamUnknownCondition,
    UpstreamUnsettledCondition,
)

LABEL = "when upstream complete"
VERIFIED = "verified"
"""The check by which the Partition Checker says that a pair is in storage as it was recorded."""

CUT_OFF = "headwater/cut-off"
"""Tag of runs that leave pairs alone of which every input is as it was: those of automation and of recoveries."""

SENSOR_INTERVAL_SECONDS = 5
"""How often arrival sensors and automation look again: a partition waits seconds, and two cores stay idle."""

_upstream_moved = dg.AutomationCondition.any_deps_match(
    # Dagster's any_deps_updated() leaves out what a run updated that builds this asset too, whatever pairs of it.
    dg.AutomationCondition.newly_updated() | dg.AutomationCondition.will_be_requested()
).with_label("upstream moved")

_under_way = (dg.AutomationCondition.in_progress() | ComesAgainCondition()).with_label("is being built")

_built = dg.AutomationCondition.newly_updated() & ~dg.AutomationCondition.execution_failed()
"""What was built and has failed by the same look has failed since then."""

_first_failure = (
    # A pair that failed counts as failed while it is tried again; only the end of a try is a new failure.
    (dg.AutomationCondition.execution_failed() & ~_under_way)
    .newly_true()
    .since(_upstream_moved | _built)
    .newly_true()
    .with_label("failed for the first time since its upstream moved or it was last built")
)

_asked_for_or_built = (
    # "Newly requested" means by the look before this one: what has moved since then is not in that request, and a run
    # that has failed by now will not build it. Nor is in a pair what overtook the run that built it.
    (dg.AutomationCondition.newly_requested() & ~_upstream_moved & ~_first_failure) | (_built & ~OvertakenCondition())
).with_label("asked for or built")

_overtaken_at_first_look = dg.AutomationCondition.initial_evaluation() & OvertakenCondition()


def when_upstream_complete(spec: dg.AssetSpec) -> dg.AutomationCondition[Any]:
    """Request a pair of `spec` when something it needs has moved and *all* it needs is there, verified and not failed.

    * Unlike `eager()` it looks at every partition, so a redelivered old day reaches the forecast too, and it is held
      back by failed blocking checks, which by themselves gate only within one run, for the partitions that they failed.
      `eager()` requests pairs whose required parents do not exist in some mappings (dagster#34094); here a missing one
      always wins.
    * What arrived before automation first looked is built too. `since_last_handled()` forgets it, because it takes the
      first evaluation for the handling of all that is missing by then.
    * What moves between a request and the next look, a restart of the daemon included, is asked for again. A bare
      `newly_requested()` would take it for handled. So is what moves while the pair is being built: a bare
      `newly_updated()` would take it for built in.
    * A failed pair is asked for once more per failure: the edge of the *first* failure since its upstream moved. A
      bare `execution_failed()` is level-triggered, and its plain edge fires again after each failed retry; both repeat
      a deterministic failure for ever. What Dagster launches again by itself is left to it.
    * A pair that the Partition Checker found lost or damaged holds back what reads it until it is healed. It is told
      so by the failed check `verified`; the gate in the run is what makes sure.
    * While something that it reads is being built, or is to be built from what is, it waits: what is older than its
      own upstream is refused by the gate, and a pair that has read half of what moved is built once more.
    * While the code location of something that it needs is not loaded, nothing is known of that, and it waits.
    * What the asset declares optional keeps nobody waiting, nor does a late pair that it declares to go on without.
    """
    declared = completeness_of(spec)
    return (
        (dg.AutomationCondition.newly_missing() | _upstream_moved | _first_failure | _overtaken_at_first_look).since(
            _asked_for_or_built
        )
        & _upstream_is_complete(spec, declared)
        & ~_under_way
    ).with_label(LABEL)


def _upstream_is_complete(spec: dg.AssetSpec, declared: Completeness) -> dg.AutomationCondition[Any]:
    upstream = [dep.asset_key for dep in spec.deps]
    unneeded = [key for key in upstream if not declared.needs("/".join(key.path))]
    impatient = [key for key in upstream if declared.goes_on_without_late("/".join(key.path))]
    missing = dg.AutomationCondition.any_deps_missing()
    if unneeded or impatient:
        missing = missing.ignore(dg.AssetSelection.assets(*unneeded, *impatient))
    waits: dg.AutomationCondition[Any] = missing
    if impatient:
        waits = missing | dg.AutomationCondition.any_deps_match(_missing_and_not_late(declared)).allow(
            dg.AssetSelection.assets(*impatient)
        )
    wanting = _any_dep_found_wanting(upstream)
    if unneeded:
        wanting = wanting.ignore(dg.AssetSelection.assets(*unneeded))
    return (~UpstreamUnknownCondition() & ~waits & ~UpstreamUnsettledCondition() & ~wanting).with_label(
        "whole required upstream is there, verified, settled, and no blocking check of it has failed"
    )


def _any_dep_found_wanting(upstream: Sequence[dg.AssetKey]) -> DepsAutomationCondition[Any]:
    """An upstream pair was judged bad, or is lost or damaged. One that is missing is waited for as such, or not at all.

    Only an evaluation of that very pair that failed says so. A pair is recorded only after all that judges it has
    passed, so nothing waits for an evaluation: one that was planned by a run that confirmed the pair, was cancelled or
    killed, says nothing about the data. (`all_deps_blocking_checks_passed()` waits for it, for ever.)
    """
    failed = dg.AutomationCondition.check_failed()
    verified = dg.AssetSelection.checks(*[dg.AssetCheckKey(key, VERIFIED) for key in upstream])
    wanting = dg.AutomationCondition.any_checks_match(failed, blocking_only=True) | (
        dg.AutomationCondition.any_checks_match(failed).allow(verified)
    )
    return dg.AutomationCondition.any_deps_match(~dg.AutomationCondition.missing() & wanting).with_label(
        "an upstream pair failed a blocking check, or is lost or damaged"
    )


def _missing_and_not_late(declared: Completeness) -> dg.AutomationCondition[Any]:
    return dg.AutomationCondition.missing() & ~PartitionEndedCondition(hours=declared.late_after_hours)


def automation_sensor(location: str) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions of code location `location`.

    Several partitions asked for in one tick become one backfill, so that they run as a few single-run ranges.
    """
    return dg.AutomationConditionSensorDefinition(
        f"{location}_automation",
        target=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
        run_tags={CUT_OFF: "true"},
        description="Requests each pair when its whole required upstream is complete.",
    )
