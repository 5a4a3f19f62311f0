"""Receipts restored after the ledger was lost: from what the lake holds and what the event log recorded.

Belongs here: which receipts can be proven, and recording them. Not here: adopting pairs of which nothing is known
(`deep.py`), the command (`restore_command.py`).

The event of a pair names the id of its receipt, which stands for code version, content and the ids of all inputs. So a
receipt that is put together from what is there now is the one that was lost if it comes to that id, and nothing is
restored that does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import duckdb

from platform_assets.asset_graph.graph import Node
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import inputs_of
from platform_assets.partition_checker.stored import Stored, kept_in_files, kept_in_table
from platform_assets.partitioned_checks import newest_materializations
from resources.ledger import Receipt, digest

_PAIRS_AT_ONCE = 200


@dataclass(frozen=True)
class Restored:
    """How many receipts the event log names, and the pairs whose receipt could be proven."""

    named: int
    pairs: tuple[tuple[str, str], ...]


def restore(inspector: Inspector, progress: Callable[[], None] = lambda: None) -> Restored:
    """Record every receipt that lake and event log prove, upstream first; pairs that have a receipt keep it.

    A pair is not restored where its rows or inputs have changed since it was recorded, or it was built from what is
    not restored itself: the checker names it then, and a plan builds it again. `progress` is told of each asset done.
    """
    named, restored = 0, []
    for node in inspector.graph.built:
        lost = set(node.pairs) - inspector.ledger.current(node.name).keys()
        events = {key: event for key, event in _recorded(inspector.instance, node).items() if key in lost}
        named += len(events)
        for some in _in_order(node, events):
            receipts = _proven(inspector, node, {key: events[key] for key in some})
            inspector.ledger.record(receipts)
            restored += [(node.name, receipt.partition) for receipt in receipts]
        progress()
    return Restored(named, tuple(restored))


def _recorded(instance: dg.DagsterInstance, node: Node) -> dict[str, dg.AssetMaterialization]:
    """The newest event of each pair that the event log calls built."""
    keys = None if node.calendar is None else list(instance.get_materialized_partitions(node.key))
    records = newest_materializations(instance, node.key, keys)
    events = [record.asset_materialization for record in records]
    return {event.partition or "": event for event in events if event is not None and "receipt" in event.metadata}


def _in_order(node: Node, events: Mapping[str, object]) -> list[list[str]]:
    """The pairs in groups of which none needs another; those of an asset that reads itself go one by one."""
    keys = [key for key in node.pairs if key in events]
    at_once = 1 if node.key in node.deps else _PAIRS_AT_ONCE
    return [keys[start : start + at_once] for start in range(0, len(keys), at_once)]


def _proven(inspector: Inspector, node: Node, events: Mapping[str, dg.AssetMaterialization]) -> list[Receipt]:
    facts = inspector.facts({node.name: None}, inspector.read_by({node.name: None}))
    requirements = inspector.graph.requirements(node)
    inputs = {key: inputs_of(facts, requirements, node.name, key) for key in events}
    found = []
    for key, kept in _stored(inspector, node, events).items():
        if node.completeness.storage == "view":
            read = sorted((one.asset, one.partition, one.content) for one in inputs[key])
            kept = Stored(None, digest("view", read))
        receipt = Receipt(
            asset=node.name,
            partition=key,
            code_version=str(events[key].metadata["code version"].value),
            inputs=inputs[key],
            environment=inspector.ledger.environment,
            run_id="restored",
            **vars(kept),
        )
        if receipt.id == events[key].metadata["receipt"].value:
            found.append(receipt)
    return found


def _stored(inspector: Inspector, node: Node, events: Mapping[str, dg.AssetMaterialization]) -> dict[str, Stored]:
    """What storage holds of the pairs now; one that cannot be read is left out, and so are files that are gone."""
    storage = node.completeness.storage
    if storage == "view":
        return dict.fromkeys(events, Stored(None, ""))
    if storage == "files":
        return {key: kept for key, event in events.items() if (kept := _in_files(inspector, event)) is not None}
    try:
        return kept_in_table(inspector.catalog, node.key, list(events))
    except (duckdb.Error, OSError):
        if len(events) == 1:
            return {}
        return {one: kept for key in events for one, kept in _stored(inspector, node, {key: events[key]}).items()}


def _in_files(inspector: Inspector, event: dg.AssetMaterialization) -> Stored | None:
    named = event.metadata.get("files")
    paths = [Path(inspector.ledger.home, str(path)) for path in getattr(named, "value", None) or ()]
    return kept_in_files(paths) if paths and all(path.exists() for path in paths) else None
