"""What goes on in Dagster, by pair: runs and backfills under way, deliveries, automation, and how attempts ended.

Belongs here: asking the instance, and lining the answers up by pair. Not here: what follows from them (`stalls.py`).
"""

import time
from collections.abc import Iterable, Mapping

import dagster as dg
import numpy as np
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType
from dagster._core.storage.dagster_run import FINISHED_STATUSES, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)

from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.asset_graph.requirements import BoolArray
from platform_assets.conditions import RETRIED_WITHIN
from platform_assets.newest_events import newest_events
from platform_assets.partition_checker.stalls import Activity, Attempt
from platform_assets.partition_checker.states import FloatArray
from resources.database import in_parts

_UNFINISHED = [status for status in DagsterRunStatus if status not in FINISHED_STATUSES]
_MOST_DIED = 500


def activity(instance: dg.DagsterInstance, graph: Graph) -> Activity:
    """What goes on now."""
    under_way = {node.name: np.zeros(len(node.pairs), np.bool_) for node in graph.built}
    for run in _runs_under_way(instance):
        for node in _of_run(run, graph):
            under_way[node.name] |= _pairs_of_run(run, node)
    active = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING])
    for backfill in instance.get_backfills(filters=active):
        for name, pairs in _pairs_of_backfill(backfill, graph).items():
            under_way[name] |= pairs
    delivered = {node.name: _delivered_at(instance, node) for node in graph.nodes.values() if node.location is None}
    return Activity(under_way, delivered, _off(instance, graph))


def attempts(
    instance: dg.DagsterInstance, graph: Graph, pairs: Mapping[str, BoolArray]
) -> dict[str, dict[str, Attempt]]:
    """How the last run that was to build each of the pairs ended; those that none was to build are left out."""
    planned: dict[str, list[tuple[str, str]]] = {}
    for name, some in pairs.items():
        node = graph.named[name]
        keys = [node.pairs[at] for at in np.flatnonzero(some).tolist()]
        requested = keys if node.calendar is not None else {None} if keys else ()
        tries = newest_events(instance, node.key, requested, planned=True)
        planned[name] = [(one.partition or "", one.run_id or "") for one in tries]
    runs = _records(instance, {run for found in planned.values() for _, run in found})
    return {name: {key: _attempt(run, runs.get(run)) for key, run in found} for name, found in planned.items() if found}


def _attempt(run_id: str, record: RunRecord | None) -> Attempt:
    if record is None:
        return Attempt(f"run {run_id}, which was to build it, was deleted", 0.0)
    ended = record.end_time or record.update_timestamp.timestamp()
    words = {
        DagsterRunStatus.CANCELED: "was cancelled",
        DagsterRunStatus.FAILURE: "failed before it began with it",
    }
    how = words.get(record.dagster_run.status, "ended without building it")
    return Attempt(f"run {run_id}, which was to build it, {how}", ended)


def _runs_under_way(instance: dg.DagsterInstance) -> Iterable[DagsterRun]:
    yield from instance.get_runs(filters=RunsFilter(statuses=_UNFINISHED))
    died = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"})
    for record in instance.get_run_records(died, limit=_MOST_DIED):
        if time.time() - (record.end_time or 0.0) < RETRIED_WITHIN.total_seconds():
            yield record.dagster_run


def _of_run(run: DagsterRun, graph: Graph) -> Iterable[Node]:
    for key in run.asset_selection or ():
        node = graph.nodes.get(key)
        if node is not None and node.location:
            yield node


def _pairs_of_run(run: DagsterRun, node: Node) -> BoolArray:
    """The pairs of an asset that a run is to build, by its tags."""
    if node.calendar is None:
        return np.ones(1, np.bool_)
    tags = run.tags
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG, tags.get(PARTITION_NAME_TAG))
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG, first)
    places = {key: at for at, key in enumerate(node.pairs)}
    found = np.zeros(len(node.pairs), np.bool_)
    if first in places and last in places:
        found[places[first] : places[last] + 1] = True
    return found


def _pairs_of_backfill(backfill: PartitionBackfill, graph: Graph) -> dict[str, BoolArray]:
    """What a backfill has still to build. One that older code stored explains all pairs of its assets."""
    found = {}
    data = backfill.asset_backfill_data
    for key in backfill.asset_selection or ():
        node = graph.nodes.get(key)
        if node is None or not node.location:
            continue
        pairs = np.ones(len(node.pairs), np.bool_)
        if data is not None and node.calendar is not None:
            target = data.target_subset.get_asset_subset(key)
            wanted = set(target.subset_value.get_partition_keys()) if target else set()
            pairs = np.fromiter((one in wanted for one in node.pairs), np.bool_, len(node.pairs))
        found[node.name] = pairs
    return found


def _delivered_at(instance: dg.DagsterInstance, node: Node) -> FloatArray:
    places = {key: at for at, key in enumerate(node.pairs)}
    found = np.zeros(len(node.pairs), np.float64)
    for event in newest_events(instance, node.key, None if node.calendar is not None else {None}):
        if (event.partition or "") in places:
            found[places[event.partition or ""]] = event.timestamp
    return found


def _records(instance: dg.DagsterInstance, run_ids: set[str]) -> dict[str, RunRecord]:
    return {
        record.dagster_run.run_id: record
        for some in in_parts(sorted(run_ids))
        for record in instance.get_run_records(RunsFilter(run_ids=some))
    }


def _off(instance: dg.DagsterInstance, graph: Graph) -> dict[str, str]:
    """By code location, that its automation sensor was turned off; an instance without schedules has no sensors."""
    if instance.schedule_storage is None:
        return {}
    stopped = {
        state.instigator_name
        for state in instance.all_instigator_state(
            instigator_type=InstigatorType.SENSOR, instigator_statuses={InstigatorStatus.STOPPED}
        )
    }
    locations = {node.location for node in graph.built if node.location}
    return {
        location: f"the sensor {location}_automation, which asks for it, is turned off"
        for location in locations
        if f"{location}_automation" in stopped
    }
