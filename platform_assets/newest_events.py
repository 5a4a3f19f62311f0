"""The newest event of each pair of an asset, in the short form that says when and by which run, without its contents.

Belongs here: that one question to Dagster's event log. Not here: whole materializations with their metadata
(`partitioned_checks.py`), what follows from the answer.
"""

from collections.abc import Collection
from typing import Literal

import dagster as dg
from dagster._core.storage.event_log.base import AssetEventSummaryRecord

from resources.database import in_parts


def newest_events(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    partitions: Collection[str | None] | None = None,
    *,
    after: int | None = None,
    planned: bool = False,
) -> list[AssetEventSummaryRecord]:
    """The newest materialization of each pair, or with `planned` the newest plan of a run to make one.

    Args:
        instance: whose event log.
        key: the asset.
        partitions: its partitions to ask about; None: all; {None}: it has none.
        after: only events later than the one of this storage id.
        planned: plans instead of materializations.
    """
    kind: Literal[dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION]
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED if planned else dg.DagsterEventType.ASSET_MATERIALIZATION
    if partitions is not None and set(partitions) == {None}:
        return list(instance.get_asset_event_summary_records(kind, key, after_storage_id=after, limit=1))
    wanted = None if partitions is None else {one for one in partitions if one is not None}
    if wanted is not None and not wanted:
        return []
    log = instance.event_log_storage
    ids = list(log.get_latest_storage_id_by_partition(key, kind, wanted, after_cursor=after).values())
    return [
        record
        for some in in_parts(ids)
        for record in instance.get_asset_event_summary_records(kind, key, storage_ids=some)
    ]
