"""The automation condition for pairs whose partition ended so long ago that they are late.

Belongs here: the one condition that Dagster lacks. Not here: which asset uses it (`automation.py`).

Dagster's `in_latest_time_window(6 h)` asks which partitions overlap the six hours before the end of the latest one,
whatever the time is, so it can tell of no daily partition when it becomes late. Daemon and web server read conditions
from what a code server writes, so both must know this class: they do by the run launcher of their instance.
"""

from datetime import timedelta
from typing import Any

import dagster as dg
from dagster._core.asset_graph_view.entity_subset import EntitySubset
from dagster._core.definitions.declarative_automation.operands.subset_automation_condition import (
    SubsetAutomationCondition,
)
from dagster._record import record
from dagster._serdes import whitelist_for_serdes


@whitelist_for_serdes
@record
class PartitionEndedCondition(SubsetAutomationCondition[dg.AssetKey]):
    """The pairs whose time partition ended at least so many hours before the look; none without a time partition."""

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
        windows = calendar.get_partition_keys(current_time=ended_by)
        return view.get_subset_from_partition_keys(key, calendar, set(windows))
