"""Every automation condition, named, with the reason it is what it is.

Belongs here: conditions and the constants that pace them. Not here: which asset uses which (its factory says so).
"""

import dagster as dg

SENSOR_INTERVAL_SECONDS = 5
"""How often arrival sensors and automation look again: a partition waits seconds, and two cores stay idle."""

_upstream_is_complete = (
    ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("whole required upstream is there, settled and passed its blocking checks")

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

WHEN_UPSTREAM_COMPLETE = (
    (dg.AutomationCondition.newly_missing() | _upstream_moved | _first_failure).since(_asked_for_or_built)
    & _upstream_is_complete
    & ~dg.AutomationCondition.in_progress()
).with_label("when upstream complete")
"""Request a pair when something it needs has moved and *all* it needs is there and has passed, never before.

* Unlike `eager()` it looks at every partition, so a redelivered old day reaches the forecast too, and it waits for
  blocking checks, which by themselves gate only within one run. `eager()` requests pairs whose required parents do
  not exist in some mappings (dagster#34094); here a missing one always wins.
* What arrived before automation first looked is built too. `since_last_handled()` forgets it, because it takes the
  first evaluation for the handling of all that is missing by then.
* What moves between a request and the next look, a restart of the daemon included, is asked for again. A bare
  `newly_requested()` would take it for handled.
* A failed pair is asked for once more per failure: the edge of the *first* failure since its upstream moved. A bare
  `execution_failed()` is level-triggered, and its plain edge fires again after each failed retry; both repeat a
  deterministic failure for ever.
"""


def automation_sensor(location: str) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions of code location `location`.

    Several partitions asked for in one tick become one backfill, so that they run as a few single-run ranges.
    """
    return dg.AutomationConditionSensorDefinition(
        f"{location}_automation",
        target=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
        description="Requests each pair when its whole required upstream is complete.",
    )
