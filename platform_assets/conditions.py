"""The automation conditions that Dagster lacks.

Belongs here: what each of them holds for. Not here: which asset uses which (`automation.py`).

Daemon and web server read conditions from what a code server writes, so both must know these classes: they import
`automation.py`, the daemon by the run launcher of its instance.
"""

import re
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
from dagster._core.asset_graph_view.entity_subset import EntitySubset
from dagster._core.definitions.assets.definition.asset_spec import SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET
from dagster._core.definitions.assets.graph.asset_graph import executable_in_same_run
from dagster._core.definitions.declarative_automation.operands.subset_automation_condition import (
    SubsetAutomationCondition,
)
from dagster._core.storage.dagster_run import RunsFilter
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._record import record
from dagster._serdes import whitelist_for_serdes

from platform_assets import calendars
from platform_assets.newest_events import newest_events

_Keys = set[str | None]
_Subset = EntitySubset[dg.AssetKey]

RETRIED_WITHIN = timedelta(minutes=10)
"""How long Dagster may take to launch a run again. What it has not done by then it has given up, and we ask ourselves.

Its daemon does it within seconds; a run of a backfill that has ended it never launches again, though its tag says so.
"""


class _PairsCondition(SubsetAutomationCondition[dg.AssetKey]):
    """A condition that is called after its class, and says what it holds for in `words`."""

    words = ""

    @property
    def name(self) -> str:
        """What the web UI calls it: `overtaken` of `OvertakenCondition`."""
        return re.sub(r"(?<=.)(?=[A-Z])", "_", type(self).__name__.removesuffix("Condition")).lower()

    @property
    def description(self) -> str:
        """What the web UI says of it."""
        return self.words


@whitelist_for_serdes
@record
class PartitionEndedCondition(SubsetAutomationCondition[dg.AssetKey]):
    """The pairs whose time partition ended at least so many hours before the look; none without a time partition.

    Dagster's `in_latest_time_window(6 h)` asks which partitions overlap the six hours before the end of the latest one,
    whatever the time is, so it can tell of no daily partition when it becomes late.
    """

    hours: float

    @property
    def description(self) -> str:
        """What the web UI says of it."""
        return f"Partition ended {self.hours:g} hours ago or earlier"

    @property
    def name(self) -> str:
        """What the web UI calls it."""
        return f"partition_ended(hours={self.hours:g})"

    def compute_subset(self, context: dg.AutomationContext[Any]) -> EntitySubset[dg.AssetKey]:
        """The pairs for which it holds."""
        view, key = context.asset_graph_view, context.key
        calendar = context.partitions_def
        ended_by = view.effective_dt - timedelta(hours=self.hours)
        if not isinstance(calendar, dg.TimeWindowPartitionsDefinition):
            return view.get_empty_subset(key=key)
        return view.get_subset_from_partition_keys(key, calendar, set(calendars.ended_by(calendar, ended_by)))


@whitelist_for_serdes
@record
class UpstreamUnknownCondition(_PairsCondition):
    """Every pair of an asset of which no loaded location declares something that it reads.

    Where another location does not load, or its server is gone, Dagster puts empty assets in the place of those that
    are read from it, without partitions and never missing: every pair would seem to have all that it needs.
    """

    words = "No code location that is loaded declares something that it reads"

    def compute_subset(self, context: dg.AutomationContext[Any]) -> EntitySubset[dg.AssetKey]:
        """The pairs for which it holds."""
        graph = context.asset_graph_view.asset_graph
        read = (graph.get(upstream) for upstream in graph.get(context.key).parent_keys)
        if any(node.metadata.get(SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET) for node in read):
            return context.candidate_subset
        return context.asset_graph_view.get_empty_subset(key=context.key)


@whitelist_for_serdes
@record
class OvertakenCondition(_PairsCondition):
    """The pairs for which another run recorded something that they read after the run that built them was planned.

    Such a pair may have been built from what was there before; asking for it once more settles it. Events are compared
    by their order in the log, so no clock counts. Dagster resets a condition by the order of looks, not by what a run
    has read: a pair that is recorded at the same look at which its upstream moved counts as built from it.
    """

    words = "Its upstream moved while it was being built"

    def compute_subset(self, context: dg.AutomationContext[Any]) -> EntitySubset[dg.AssetKey]:
        """The pairs for which it holds."""
        view, key = context.asset_graph_view, context.key
        instance, found = view.instance, view.get_empty_subset(key=key)
        by_run: dict[str, dict[str | None, int]] = {}
        for built in newest_events(instance, key, _keys_of(context.candidate_subset)):
            by_run.setdefault(built.run_id or "", {})[built.partition] = built.storage_id
        for run_id, pairs in by_run.items():
            planned = instance.get_asset_event_summary_records(
                dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, key, run_id=run_id, limit=1, ascending=True
            )
            # What no run has built is compared with its own event.
            since = planned[0].storage_id if planned else min(pairs.values())
            of_run = _subset(view, key, set(pairs))
            for upstream in sorted(view.asset_graph.get(key).parent_keys):
                read = _keys_of(view.compute_parent_subset(upstream, of_run))
                later = {
                    event.partition
                    for event in newest_events(instance, upstream, read, after=since)
                    if event.run_id != run_id
                }
                moved = view.compute_child_subset(key, _subset(view, upstream, later))
                found = found.compute_union(moved.compute_intersection(of_run))
        return found


@whitelist_for_serdes
@record
class ComesAgainCondition(_PairsCondition):
    """The pairs of failed runs that Dagster is about to launch again by itself, because their worker died."""

    words = "Its worker died, and its run is about to be launched again"

    async def compute_subset(self, context: dg.AutomationContext[Any]) -> EntitySubset[dg.AssetKey]:  # type: ignore[override]
        """The pairs for which it holds."""
        return await _comes_again(context.asset_graph_view, context.candidate_subset)


@whitelist_for_serdes
@record
class UpstreamUnsettledCondition(_PairsCondition):
    """The pairs that read what is being built, or what reads that, however far back: they would be built twice.

    Worse, the first time in vain: what a pair reads is outdated as long as its own upstream is built anew, and the gate
    refuses to build upon it. So is, for the next look, what this look asks for; but for what goes into the same run.
    """

    words = "Something that it reads, or that is built from, is being built"

    async def compute_subset(self, context: dg.AutomationContext[Any]) -> EntitySubset[dg.AssetKey]:  # type: ignore[override]
        """The pairs for which it holds."""
        view, key = context.asset_graph_view, context.key
        found = view.get_empty_subset(key=key)
        for upstream in sorted(view.asset_graph.get(key).parent_keys):
            if upstream == key:
                unsettled = await _being_built(view, key)
            else:
                unsettled = await _unsettled(context, upstream)
                asked = context.request_subsets_by_key.get(upstream)
                if asked and executable_in_same_run(view.asset_graph, child_key=key, parent_key=upstream):
                    unsettled = unsettled.compute_difference(asked)
            if not unsettled.is_empty:
                found = found.compute_union(view.compute_child_subset(key, unsettled))
        return found


_UNSETTLED: WeakKeyDictionary[AssetGraphView, dict[dg.AssetKey, _Subset]] = WeakKeyDictionary()
"""What `_unsettled` has found, by look: each look has a view of its own."""


async def _unsettled(context: dg.AutomationContext[Any], key: dg.AssetKey) -> _Subset:
    """The pairs of an asset that are being built, that this look asks for, or that read such, however far back.

    Whoever asks reads the asset, so that this look has come to an end with it.
    """
    view = context.asset_graph_view
    known = _UNSETTLED.setdefault(view, {})
    if key not in known:
        found = await _being_built(view, key)
        if asked := context.request_subsets_by_key.get(key):
            found = found.compute_union(asked)
        for upstream in sorted(view.asset_graph.get(key).parent_keys - {key}):
            unsettled = await _unsettled(context, upstream)
            if not unsettled.is_empty:
                found = found.compute_union(view.compute_child_subset(key, unsettled))
        known[key] = found
    return known[key]


async def _being_built(view: AssetGraphView, key: dg.AssetKey) -> _Subset:
    everything = view.get_full_subset(key=key)
    found = await view.compute_run_in_progress_subset(key=key, from_subset=everything)
    backfilled = await view.compute_backfill_in_progress_subset(key=key, from_subset=everything)
    return found.compute_union(backfilled).compute_union(await _comes_again(view, everything))


async def _comes_again(view: AssetGraphView, candidates: _Subset) -> _Subset:
    """The pairs among `candidates` of failed runs that Dagster is about to launch again."""
    key = candidates.key
    failed = await view.compute_execution_failed_subset(key=key, from_subset=candidates)
    attempts = newest_events(view.instance, key, _keys_of(failed), planned=True)
    tried = {attempt.run_id for attempt in attempts if attempt.run_id}
    died = {
        run.dagster_run.run_id
        for run in (view.instance.get_run_records(RunsFilter(run_ids=list(tried))) if tried else ())
        if run.dagster_run.status is dg.DagsterRunStatus.FAILURE
        and run.dagster_run.tags.get(WILL_RETRY_TAG) == "true"
        and view.effective_dt.timestamp() - (run.end_time or 0) < RETRIED_WITHIN.total_seconds()
    }
    return _subset(view, key, {attempt.partition for attempt in attempts if attempt.run_id in died})


def _keys_of(subset: _Subset) -> _Keys:
    if subset.is_empty:
        return set()
    return set(subset.expensively_compute_partition_keys()) if subset.is_partitioned else {None}


def _subset(view: AssetGraphView, key: dg.AssetKey, keys: _Keys) -> _Subset:
    calendar = view.asset_graph.get(key).partitions_def
    if calendar is None or not keys:
        return view.get_full_subset(key=key) if keys else view.get_empty_subset(key=key)
    return view.get_subset_from_partition_keys(key, calendar, {one for one in keys if one is not None})
