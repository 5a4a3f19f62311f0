"""The freshness check of every asset, for both code locations.

Belongs here: turning `contiguity.py` into Dagster checks. Not here: what is due when (a source declares it).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from platform_assets.partition_checker.contiguity import Freshness, due_partitions, freshness

DERIVED_DUE_AFTER = timedelta(hours=6)
"""When a derived pair is due after its partition ends, unless declared otherwise."""

_SHOWN = 20
_STUB = "dagster/auto_created_stub_asset"
"""Marks what Dagster adds for an upstream asset of another code location, which judges it itself."""
_HOURLY = "5 * * * *"


def build_freshness(
    location: str, graph: dg.Definitions, due_after: Mapping[dg.AssetKey, timedelta | None]
) -> dg.Definitions:
    """One `freshness` check for each asset of `graph`, evaluated hourly and by the job `<location>_freshness`.

    Args:
        location: the code location, which names the step and the job.
        graph: the assets to judge; partitioned ones by partition, others by whether they were ever built.
        due_after: how long after its end a partition of an asset is due, where that is declared.
    """
    calendars = {
        spec.key: spec.partitions_def for spec in graph.resolve_all_asset_specs() if not spec.metadata.get(_STUB)
    }
    specs = [
        dg.AssetCheckSpec(
            "freshness",
            asset=key,
            description="The newest contiguous complete partition against what was expected by now.",
            automation_condition=dg.AutomationCondition.on_cron(_HOURLY),
        )
        for key in calendars
    ]

    @dg.multi_asset_check(name=f"{location}_freshness_checks", specs=specs, can_subset=True)
    def evaluate(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        now = datetime.now(UTC)
        for check in sorted(context.selected_asset_check_keys):
            calendar = calendars[check.asset_key]
            delay = due_after.get(check.asset_key) or DERIVED_DUE_AFTER
            yield _result(check, _standing(context.instance, check.asset_key, calendar, delay, now))

    job = dg.define_asset_job(
        f"{location}_freshness",
        selection=dg.AssetSelection.checks(*[dg.AssetCheckKey(key, "freshness") for key in calendars]),
        description="Judges the freshness of every asset of this location now.",
    )
    return dg.Definitions(asset_checks=[evaluate], jobs=[job])


def _standing(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    calendar: dg.PartitionsDefinition | None,
    delay: timedelta,
    now: datetime,
) -> Freshness:
    if isinstance(calendar, dg.TimeWindowPartitionsDefinition):
        return freshness(due_partitions(calendar, delay, now), instance.get_materialized_partitions(key))
    built = instance.get_latest_materialization_event(key) is not None
    return freshness(["the table"], ["the table"] if built else [])


def _result(check: dg.AssetCheckKey, standing: Freshness) -> dg.AssetCheckResult:
    missing: Sequence[str] = standing.missing[:_SHOWN]
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=standing.fresh,
        severity=dg.AssetCheckSeverity.WARN,
        description="complete" if standing.fresh else f"{len(standing.missing)} due partitions are not there",
        metadata={
            "newest contiguous complete partition": standing.newest_complete or "none",
            "newest partition due": standing.newest_due or "none",
            "missing": len(standing.missing),
            "first missing": ", ".join(missing) or "none",
        },
    )
