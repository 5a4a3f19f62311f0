"""Every automation condition, named, with the reason it is what it is.

Belongs here: conditions and the constants that pace them. Not here: which asset uses which (its factory says so).
"""

from typing import Any

import dagster as dg

from platform_assets.completeness import Completeness, completeness_of
from platform_assets.lateness import PartitionEndedCondition

LABEL = "when upstream complete"
VERIFIED = "verified"
"""The check by which the Partition Checker says that a pair is in storage as it was recorded."""

CUT_OFF = "headwater/cut-off"
"""Tag of runs that leave pairs alone of which every input is as it was: those of automation and of recoveries."""

SENSOR_INTERVAL_SECONDS = 5
"""How often arrival sensors and automation look again: a partition waits seconds, and two cores stay idle."""

_upstream_moved = dg.AutomationCondition.any_deps_updated()

_first_failure = (
    # A pair that failed counts as failed while it is tried again; only the end of a try is a new failure.
    (dg.AutomationCondition.execution_failed() & ~dg.AutomationCondition.in_progress())
    .newly_true()
    .since(_upstream_moved | dg.AutomationCondition.newly_updated())
    .newly_true()
    .with_label("failed for the first time since its upstream moved or it was last built")
)

_asked_for_or_built = (
    # "Newly requested" means by the look before this one: what has moved since then is not in that request.
    (dg.AutomationCondition.newly_requested() & ~_upstream_moved) | dg.AutomationCondition.newly_updated()
).with_label("asked for or built")


def when_upstream_complete(spec: dg.AssetSpec) -> dg.AutomationCondition[Any]:
    """Request a pair of `spec` when something it needs has moved and *all* it needs is there, verified, and has passed.

    * Unlike `eager()` it looks at every partition, so a redelivered old day reaches the forecast too, and it waits for
      blocking checks, which by themselves gate only within one run. `eager()` requests pairs whose required parents do
      not exist in some mappings (dagster#34094); here a missing one always wins.
    * What arrived before automation first looked is built too. `since_last_handled()` forgets it, because it takes the
      first evaluation for the handling of all that is missing by then.
    * What moves between a request and the next look, a restart of the daemon included, is asked for again. A bare
      `newly_requested()` would take it for handled.
    * A failed pair is asked for once more per failure: the edge of the *first* failure since its upstream moved. A
      bare `execution_failed()` is level-triggered, and its plain edge fires again after each failed retry; both repeat
      a deterministic failure for ever.
    * A pair that the Partition Checker found lost or damaged holds back what reads it until it is healed. It is told
      so by the failed check `verified`; the gate in the run is what makes sure.
    * What the asset declares optional keeps nobody waiting, nor does a late pair that it declares to go on without.
    """
    declared = completeness_of(spec)
    return (
        (dg.AutomationCondition.newly_missing() | _upstream_moved | _first_failure).since(_asked_for_or_built)
        & _upstream_is_complete(spec, declared)
        & ~dg.AutomationCondition.in_progress()
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
    verified = dg.AssetSelection.checks(*[dg.AssetCheckKey(key, VERIFIED) for key in upstream])
    found_wanting = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed()).allow(verified)
    ).with_label("any upstream pair is lost or damaged")
    return (
        ~waits
        & ~dg.AutomationCondition.any_deps_in_progress()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
        & ~found_wanting
    ).with_label("whole required upstream is there, verified, settled and passed its blocking checks")


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
