"""What upstream systems have delivered, as the event log records it.

Belongs here: the data version last recorded for each partition of an asset that we do not build. Not here: noticing a
delivery (`platform_assets/sources/arrival.py`).
"""

from collections.abc import Sequence

import dagster as dg

DATA_VERSION = "dagster/data_version"


def delivered_versions(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitioned: bool, partitions: Sequence[str] | None = None
) -> dict[str, str]:
    """The data version last recorded for each partition, of all or of `partitions`; '' is the unpartitioned pair."""
    if not partitioned:
        event = instance.get_latest_materialization_event(key)
        latest = event.asset_materialization if event else None
        version = (latest.tags or {}).get(DATA_VERSION) if latest else None
        return {"": version} if version else {}
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, tag_keys=[DATA_VERSION], asset_partitions=partitions
    )
    return {partition: found[DATA_VERSION] for partition, found in tags.items()}
