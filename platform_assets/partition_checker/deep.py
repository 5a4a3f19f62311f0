"""The deep check: reads the rows of recorded pairs again, and adopts stored pairs that have no receipt.

Belongs here: everything of the Partition Checker that reads data. Not here: the check without it (`facts.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np

from platform_assets.asset_graph.graph import Node
from platform_assets.asset_graph.requirements import BoolArray
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import FORGED, AssetStates, Facts, PairState, State, inputs_of
from platform_assets.partition_checker.stored import Stored, file_digest, kept_in_files, kept_in_table
from resources.ledger import FoundDamage, Receipt, schema_columns
from resources.warehouse import TableName

_PAIRS_AT_ONCE = 200

Progress = Callable[[int], None]
"""Told how many more pairs were read."""

_STORED = (State.VERIFIED, State.OUTDATED, State.FAILED, State.EMPTY)
"""States in which storage looks as the receipt says."""


def read_again(inspector: Inspector, node: Node, pairs: Iterable[PairState], progress: Progress) -> list[PairState]:
    """The same pairs, with those `short` or `unrecorded` whose bytes, rows or receipt are not what the receipt says.

    Checksums are computed over the columns that the receipt names, so that columns gained since do not count. What is
    found damaged is kept beside the receipts, so that the gate and plans know of it, until the pair is built again or
    found sound. The inspector must be one that does not trust what was found before.
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
        changed = _changed_files(inspector, node, receipts)
        sums = _checksums(inspector, node, {key: one for key, one in receipts.items() if key not in changed})
        wrong = {**changed, **_wrong_rows(inspector, node, receipts, sums)}
        inspector.ledger.found_damaged(node.name, keys, wrong)
        for pair in some:
            if pair.partition in edited:
                found[pair.partition] = replace(pair, state=State.UNRECORDED, reason=FORGED)
            elif pair.partition in wrong:
                found[pair.partition] = replace(pair, state=State.SHORT, reason=wrong[pair.partition].reason)
        progress(len(some))
    progress(len(known) - len(looked))
    return [found.get(pair.partition, pair) for pair in known]


def note_unreadable(inspector: Inspector, pairs: Mapping[str, BoolArray]) -> None:
    """Keep which pairs of a failed step cannot be read: that may be why it failed, and the next attempt replaces them.

    Only as much is read as replacing a pair reads.
    """
    for name, wanted in pairs.items():
        node = inspector.graph.named[name]
        stored = _paths(inspector, node)
        keys = [node.pairs[at] for at in np.flatnonzero(wanted).tolist() if node.pairs[at] in stored]
        if not keys:
            continue
        table = TableName.of_key(node.key)
        unreadable = set(inspector.catalog.warehouse.unreadable_files(table, None if keys == [""] else keys))
        wrong = {key: {path: "cannot be read" for path in stored[key] if str(path) in unreadable} for key in keys}
        damages = {
            key: FoundDamage(_words(some), tuple(path.name for path in some)) for key, some in wrong.items() if some
        }
        inspector.ledger.found_damaged(name, list(damages), damages)


def adopt(
    inspector: Inspector, judged: Mapping[str, AssetStates], wanted: Mapping[str, Sequence[str]], run_id: str
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
        requested = set(partitions)
        pairs = [pair.partition for pair in judged[name].pairs() if pair.state is State.UNRECORDED]
        pairs = [partition for partition in pairs if partition in requested]
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


def _changed_files(inspector: Inspector, node: Node, receipts: Mapping[str, Receipt]) -> dict[str, FoundDamage]:
    """By partition the lake files whose bytes are not those that were recorded, or cannot be read.

    Of files that were recorded before there were digests nothing is known but their rows.
    """
    found: dict[str, FoundDamage] = {}
    for partition, paths in _paths(inspector, node).items():
        recorded = dict(receipts[partition].digests) if partition in receipts else {}
        wrong = {path: why for path in paths for why in [_changed(path, recorded.get(path.name))] if why}
        if wrong:
            found[partition] = FoundDamage(_words(wrong), tuple(path.name for path in wrong))
    return found


def _changed(path: Path, recorded: str | None) -> str:
    """What is wrong with a file; empty when nothing is, or nothing was recorded of it."""
    if recorded is None:
        return ""
    try:
        return "" if file_digest(path) == recorded else "has other bytes than were written"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _wrong_rows(
    inspector: Inspector, node: Node, receipts: Mapping[str, Receipt], checksums: Mapping[str, str]
) -> dict[str, FoundDamage]:
    """By partition what the checksums tell, with every file of the pair: which of them it is, they do not tell."""
    wrong: dict[str, str] = {}
    for partition, checksum in checksums.items():
        said = receipts[partition].checksum
        if checksum.startswith("!"):
            wrong[partition] = f"it cannot be read: {checksum[1:]}"
        elif checksum != said:
            wrong[partition] = f"its receipt says checksum {said}, storage has {checksum or 'no rows'}"
    paths = _paths(inspector, node) if wrong else {}
    return {
        partition: FoundDamage(
            f"{reason}; its rows are in {', '.join(map(str, paths[partition]))}" if partition in paths else reason,
            tuple(path.name for path in paths.get(partition, ())),
        )
        for partition, reason in wrong.items()
    }


def _paths(inspector: Inspector, node: Node) -> dict[str, list[Path]]:
    """The lake files of each partition; none of what is not in a table of the lake."""
    if node.completeness.storage != "table":
        return {}
    table = TableName.of_key(node.key)
    files = inspector.catalog.files([table]).get(table)
    found: dict[str, list[Path]] = {}
    for partition, path in zip(files.partitions, files.paths, strict=True) if files else ():
        found.setdefault(partition, []).append(Path(path))
    return found


def _words(wrong: Mapping[Path, str]) -> str:
    return "; ".join(f"its file {path} {why}" for path, why in wrong.items())


def _reads_recorded(inspector: Inspector, node: Node, facts: Mapping[str, Facts], partition: str) -> bool:
    at = facts[node.name].place[partition]
    return all(
        facts[upstream].recorded[number] or facts[upstream].is_delivered
        for upstream, requirement in inspector.graph.requirements(node).items()
        if node.completeness.needs(upstream)
        for number in requirement.upstream_of(at)
    )


def _receipt(
    inspector: Inspector, node: Node, facts: Mapping[str, Facts], partition: str, kept: Stored, run_id: str
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
