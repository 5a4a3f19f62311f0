"""The deep check: reads the rows of recorded pairs again, and adopts stored pairs that have no receipt.

Belongs here: everything of the Partition Checker that reads data. Not here: the check without it (`inspection.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from platform_assets.operations.graph import Node
from platform_assets.partition_checker.inspection import Inspector
from platform_assets.partition_checker.kept import Kept, kept_in_files, kept_in_table
from platform_assets.partition_checker.states import FORGED, Facts, Judged, PairState, State, inputs_of
from resources.ledger import Receipt, schema_columns

_PAIRS_AT_ONCE = 200

Progress = Callable[[int], None]
"""Told how many more pairs were read."""

_STORED = (State.VERIFIED, State.OUTDATED, State.FAILED, State.EMPTY)
"""States in which storage looks as the receipt says."""


def read_again(inspector: Inspector, node: Node, pairs: Iterable[PairState], progress: Progress) -> list[PairState]:
    """The same pairs, with those `short` or `unrecorded` whose rows or receipt are not what the receipt says.

    Checksums are computed over the columns that the receipt names, so that columns gained since do not count.
    """
    known = list(pairs)
    if node.location is None or node.completeness.storage == "view":
        progress(len(known))
        return known
    looked = [pair for pair in known if pair.state in _STORED]
    found: dict[str, PairState] = {}
    for start in range(0, len(looked), _PAIRS_AT_ONCE):
        some = looked[start : start + _PAIRS_AT_ONCE]
        keys = [pair.partition for pair in some]
        receipts, edited = inspector.ledger.current(node.name, keys), inspector.ledger.edited(node.name, keys)
        sums = _checksums(inspector, node, receipts)
        for pair in some:
            key = pair.partition
            found[key] = (
                replace(pair, state=State.UNRECORDED, reason=FORGED)
                if key in edited
                else _compared(pair, receipts[key], sums[key])
            )
        progress(len(some))
    progress(len(known) - len(looked))
    return [found.get(pair.partition, pair) for pair in known]


def adopt(
    inspector: Inspector, judged: Mapping[str, Judged], wanted: Mapping[str, Sequence[str]], run_id: str
) -> list[tuple[str, str]]:
    """Give stored pairs that have no receipt, or not the one that fits, one for what storage holds now.

    A pair is adopted as built by the asset's present code from what its upstream pairs hold now: somebody who adopts
    vouches for that. Only pairs that are `unrecorded` are, and only those all of whose upstream pairs are recorded.

    Args:
        inspector: of the environment.
        judged: the states of the wanted assets, and of no others.
        wanted: by asset in topological order, the partitions that may be adopted.
        run_id: what the receipts are to name.

    Returns:
        The adopted pairs, as (asset, partition).
    """
    adopted = []
    for name, partitions in wanted.items():
        node = inspector.graph.named[name]
        asked = set(partitions)
        pairs = [pair.partition for pair in judged[name].pairs() if pair.state is State.UNRECORDED]
        pairs = [partition for partition in pairs if partition in asked]
        if not pairs or node.completeness.storage != "table":
            continue
        facts = inspector.facts({name: None}, inspector.read_by({name: None}))
        complete = [key for key in pairs if _reads_recorded(inspector, node, facts, key)]
        kept = kept_in_table(inspector.catalog, node.key, complete) if complete else {}
        inspector.ledger.record([_receipt(inspector, node, facts, key, kept[key], run_id) for key in complete])
        adopted += [(name, key) for key in complete]
    return adopted


def _checksums(inspector: Inspector, node: Node, receipts: Mapping[str, Receipt]) -> dict[str, str]:
    """The checksum of each pair's data now; what cannot be read has the reason instead, after an exclamation mark."""
    if node.completeness.storage == "files":
        return {key: _of_files(receipt) for key, receipt in receipts.items()}
    by_columns: dict[tuple[str, ...], list[str]] = {}
    for key, receipt in receipts.items():
        by_columns.setdefault(tuple(schema_columns(receipt.schema)), []).append(key)
    found: dict[str, str] = {}
    for columns, keys in by_columns.items():
        try:
            kept = kept_in_table(inspector.catalog, node.key, keys, columns)
            found |= {key: kept[key].checksum for key in keys}
        except duckdb.Error as error:
            if len(keys) == 1:
                found[keys[0]] = f"!{str(error).splitlines()[0]}"
                continue
            for key in keys:
                found |= _checksums(inspector, node, {key: receipts[key]})
    return found


def _of_files(receipt: Receipt) -> str:
    try:
        return kept_in_files([Path(file.path) for file in receipt.files]).checksum
    except OSError as error:
        return f"!{error}"


def _compared(pair: PairState, receipt: Receipt, checksum: str) -> PairState:
    if checksum.startswith("!"):
        return replace(pair, state=State.SHORT, reason=f"it cannot be read: {checksum[1:]}")
    if checksum != receipt.checksum:
        reason = f"its receipt says checksum {receipt.checksum}, storage has {checksum or 'no rows'}"
        return replace(pair, state=State.SHORT, reason=reason)
    return pair


def _reads_recorded(inspector: Inspector, node: Node, facts: Mapping[str, Facts], partition: str) -> bool:
    at = facts[node.name].place[partition]
    return all(
        facts[upstream].recorded[number] or facts[upstream].is_delivered
        for upstream, requirement in inspector.graph.requirements(node).items()
        if node.completeness.needs(upstream)
        for number in requirement.upstream_of(at)
    )


def _receipt(
    inspector: Inspector, node: Node, facts: Mapping[str, Facts], partition: str, kept: Kept, run_id: str
) -> Receipt:
    return Receipt(
        asset=node.name,
        partition=partition,
        code_version=node.code_version or "",
        inputs=inputs_of(facts, inspector.graph.requirements(node), node.name, partition),
        environment=inspector.ledger.environment,
        run_id=run_id,
        **vars(kept),
    )
