"""The facts about pairs, gathered: receipts, the lake's catalog and files, deliveries, attempts, the calendar.

Belongs here: asking each store once and lining the answers up by pair. Not here: what follows from them
(`states.py`). Nothing here reads a row of data.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import dagster as dg
import numpy as np
from dagster._time import get_current_datetime

from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.asset_graph.requirements import BoolArray, IntArray
from platform_assets.partition_checker.deliveries import delivered_versions
from platform_assets.partition_checker.states import NONE, AssetStates, Damage, Facts, State, judge
from resources.lake_catalog import DataFiles, LakeCatalog
from resources.ledger import Attempt, FoundDamage, Ledger, ReceiptColumns, StoredFile, mark_of
from resources.warehouse import TableName

Wanted = Mapping[str, BoolArray | None]
"""By asset the pairs to look at, None for all of them."""


@dataclass(frozen=True)
class Inspector:
    """Looks at the pairs of one environment across all code locations."""

    graph: Graph
    ledger: Ledger
    catalog: LakeCatalog
    instance: dg.DagsterInstance
    now: datetime = field(default_factory=get_current_datetime)
    trusts_damages: bool = True
    """Whether what deep checks have found counts; one that looks again itself begins without it."""

    def judged(self, wanted: Wanted) -> dict[str, AssetStates]:
        """The states of the wanted pairs; of the others in the same assets they tell nothing.

        Raises:
            LakeError, LedgerError: the catalog or the receipts cannot be read.
        """
        read = self.read_by(wanted)
        facts = self.facts(wanted, read)
        return {name: self.judge(facts, name) for name in wanted}

    def judge(self, facts: Mapping[str, Facts], name: str) -> AssetStates:
        """The states of an asset's pairs by facts that were gathered before."""
        return judge(facts[name], facts, self.graph.requirements(self.graph.named[name]))

    def read_by(self, wanted: Wanted) -> dict[str, BoolArray | None]:
        """The upstream pairs that the wanted ones need, by asset; assets that are wanted themselves included."""
        found: dict[str, BoolArray | None] = {}
        for name, pairs in wanted.items():
            for upstream, requirement in self.graph.requirements(self.graph.named[name]).items():
                needed = None if pairs is None else requirement.needed(pairs)
                known = found.get(upstream, np.zeros(requirement.upstream_count, np.bool_))
                found[upstream] = None if needed is None or known is None else known | needed
        return found

    def facts(self, wanted: Wanted, read: Wanted) -> dict[str, Facts]:
        """The facts of the wanted pairs, and of those that are `read` by them, of which only the content counts."""
        both = {**read, **{name: _either(pairs, read.get(name, pairs)) for name, pairs in wanted.items()}}
        nodes = {name: self.graph.named[name] for name in both}
        standings = self.ledger.standings(
            [name for name, node in nodes.items() if node.location], self._spans(nodes, both)
        )
        tables = [TableName.of_key(nodes[name].key) for name in wanted if nodes[name].completeness.storage == "table"]
        files = self.catalog.files(tables)
        attempts = self._attempts(wanted)
        damages = self.ledger.damages(list(wanted)) if self.trusts_damages else {}
        return {
            name: self._delivered(node, both[name])
            if node.location is None
            else self._built(
                node,
                both[name],
                standings.get(name),
                files.get(TableName.of_key(node.key)),
                name in wanted,
                attempts.get(name, _Attempts()),
                damages.get(name, {}),
            )
            for name, node in nodes.items()
        }

    def _spans(self, nodes: Mapping[str, Node], pairs: Wanted) -> dict[str, tuple[str, str]]:
        """From which to which key receipts are read; keys of time sort as text in the order of time."""
        spans = {}
        for name, some in pairs.items():
            if some is not None and isinstance(nodes[name].calendar, dg.TimeWindowPartitionsDefinition):
                at = np.flatnonzero(some)
                spans[name] = (nodes[name].pairs[at[0]], nodes[name].pairs[at[-1]]) if len(at) else ("", "")
        return spans

    def _delivered(self, node: Node, pairs: BoolArray | None) -> Facts:
        keys = None if pairs is None or node.calendar is None else _chosen(node.pairs, pairs)
        versions = delivered_versions(self.instance, node.key, node.calendar is not None, keys)
        columns = _Columns(node.pairs)
        for at, version in columns.placed(versions.items()):
            columns.recorded[at] = True
            columns.ids[at] = columns.contents[at] = version
            columns.marks[at] = mark_of(node.name, node.pairs[at], version)
        return Facts(node.name, node.pairs, **columns.all, **self._calendar(node), is_delivered=True)

    def _built(
        self,
        node: Node,
        pairs: BoolArray | None,
        standings: ReceiptColumns | None,
        files: DataFiles | None,
        is_wanted: bool,
        attempts: "_Attempts",
        damages: Mapping[str, FoundDamage],
    ) -> Facts:
        columns = _Columns(node.pairs)
        snapshots = np.zeros(len(node.pairs), np.int64)
        damaged: dict[int, Damage] = {}
        storage = node.completeness.storage
        if standings is not None:
            at = columns.places(standings.partitions)
            here = at >= 0
            at = at[here]
            columns.place_texts(at, _of(standings.ids, here), _of(standings.read_as, here))
            columns.recorded[at] = True
            columns.marks[at] = standings.marks[here]
            columns.inputs_marks[at] = standings.inputs_marks[here]
            columns.rows[at] = np.array([NONE if rows is None else rows for rows in standings.rows], np.int64)[here]
            columns.recorded_at[at] = np.array(standings.recorded_at, np.float64)[here]
            columns.forged[at] = standings.forged[here]
            snapshots[at] = np.array([number or 0 for number in standings.snapshots], np.int64)[here]
            if node.code_version is not None:
                same = np.array([node.is_current(version) for version in standings.code_versions], np.bool_)
                columns.same_code[at] = same[here]
            if storage == "files" and is_wanted:
                columns.is_stored[at] = True
                texts = map(self.ledger.stored_files, _of(standings.files, here))
                damaged = _damaged_files(zip(at.tolist(), texts, strict=True))
                for place, found in columns.placed(damages.items()):
                    damaged.setdefault(place, Damage(State.SHORT, found.reason, ()))
        rewritten: dict[int, str] = {}
        if storage == "table" and files and is_wanted:
            rewritten, damaged = self._look_at(columns, files, snapshots, pairs, damages)
        if storage == "view":
            columns.is_stored[:] = TableName.of_key(node.key) in self._views
            # A view stands for what it reads: it is there for a pair once that was recorded.
            columns.is_stored &= columns.recorded
        return Facts(
            node.name,
            node.pairs,
            **columns.all,
            **self._calendar(node),
            rewritten=rewritten,
            damaged=damaged,
            failed=dict(columns.placed(attempts.failed.items())),
            building=dict(columns.placed(attempts.building.items())),
            may_be_empty=node.completeness.may_be_empty,
            counts=storage == "table",
        )

    def _look_at(
        self,
        columns: "_Columns",
        files: DataFiles,
        recorded: IntArray,
        pairs: BoolArray | None,
        damages: Mapping[str, FoundDamage],
    ) -> tuple[dict[int, str], dict[int, Damage]]:
        """Fill in what the files hold; returns who wrote after the `recorded` snapshots, and the damages."""
        at = columns.places(files.partitions)
        here = (at >= 0) if pairs is None else (at >= 0) & pairs[at]
        at = at[here]
        columns.is_stored[at] = True
        columns.stored_rows[at] = 0
        np.add.at(columns.stored_rows, at, files.rows[here])
        written = np.zeros_like(recorded)
        np.maximum.at(written, at, files.snapshots[here])
        late = np.flatnonzero((written > recorded) & columns.recorded)
        rewritten = {place: self._author(int(written[place])) for place in late.tolist()}
        damaged: dict[int, Damage] = {}
        for place, path, size in zip(at.tolist(), _of(files.paths, here), files.bytes[here].tolist(), strict=True):
            trouble = _trouble(path, size) or _found_before(damages.get(columns.keys[place]), path)
            if trouble:
                damaged[place] = _both(damaged.get(place), trouble)
        return rewritten, damaged

    def _author(self, snapshot: int) -> str:
        if snapshot not in self._authors:
            self._authors[snapshot] = f"{self.catalog.author(snapshot)} (snapshot {snapshot})"
        return self._authors[snapshot]

    @cached_property
    def _authors(self) -> dict[int, str]:
        return {}

    @cached_property
    def _views(self) -> Set[TableName]:
        return self.catalog.views()

    def _attempts(self, assets: Iterable[str]) -> dict[str, "_Attempts"]:
        """The attempts that left no receipt, by asset."""
        found: dict[str, _Attempts] = {}
        endings: dict[str, str] = {}
        for attempt in self.ledger.attempts(list(assets)):
            if not attempt.error and attempt.run_id not in endings:
                endings[attempt.run_id] = self._ending(attempt)
            why = f"run {attempt.run_id} failed: {attempt.error}" if attempt.error else endings[attempt.run_id]
            of_asset = found.setdefault(attempt.asset, _Attempts())
            if why:
                of_asset.failed[attempt.partition] = why
            else:
                of_asset.building[attempt.partition] = attempt.run_id
        return found

    def _ending(self, attempt: Attempt) -> str:
        """How a run ended that left neither a receipt nor an error; empty while it goes on."""
        run = self.instance.get_run_by_id(attempt.run_id)
        if run is not None and not run.is_finished:
            return ""
        return f"run {attempt.run_id} ended before it was done ({run.status.value.lower() if run else 'deleted'})"

    def _calendar(self, node: Node) -> dict[str, Any]:
        due, immutable = np.zeros(len(node.pairs), np.bool_), np.zeros(len(node.pairs), np.bool_)
        limit = node.completeness.immutable_before
        if isinstance(node.calendar, dg.TimeWindowPartitionsDefinition):
            by = self.now - timedelta(hours=node.completeness.due_after_hours)
            due = node.ends <= by.timestamp()
        if limit is not None and node.calendar is not None:
            immutable |= np.array([key < limit for key in node.pairs], np.bool_)
        return {"due": due, "immutable": immutable}


@dataclass(frozen=True)
class _Attempts:
    """Of one asset, by partition: why the last attempt failed, or the run whose attempt goes on."""

    failed: dict[str, str] = field(default_factory=dict)
    building: dict[str, str] = field(default_factory=dict)


class _Columns:
    """The columns of `Facts`, to be filled in by the position of each key."""

    def __init__(self, keys: Sequence[str]) -> None:
        count = len(keys)
        self.keys = keys
        self.place = {key: at for at, key in enumerate(keys)}
        self.recorded = np.zeros(count, np.bool_)
        self.forged = np.zeros(count, np.bool_)
        self.is_stored = np.zeros(count, np.bool_)
        self.same_code = np.ones(count, np.bool_)
        self.ids, self.contents = [""] * count, [""] * count
        self.recorded_at = np.zeros(count, np.float64)
        self.rows = np.full(count, NONE, np.int64)
        self.stored_rows = np.full(count, NONE, np.int64)
        self.marks = np.zeros((count, 2), np.int64)
        self.inputs_marks = np.zeros((count, 2), np.int64)

    @property
    def all(self) -> dict[str, Any]:
        return {name: column for name, column in vars(self).items() if name not in ("keys", "place")}

    def place_texts(self, at: IntArray, ids: Sequence[str], contents: Sequence[str]) -> None:
        """Put ids and contents of receipts where they belong."""
        if len(at) == len(self.ids) and (at == np.arange(len(at))).all():
            self.ids, self.contents = list(ids), list(contents)
            return
        for place, receipt, content in zip(at.tolist(), ids, contents, strict=True):
            self.ids[place], self.contents[place] = receipt, content

    def places(self, keys: Sequence[str]) -> IntArray:
        """The position of each key, NONE where the calendar has no such key."""
        return np.fromiter((self.place.get(key, NONE) for key in keys), np.int64, len(keys))

    def placed(self, values: Iterable[tuple[str, Any]]) -> Iterable[tuple[int, Any]]:
        """Values by position instead of by key; those of keys that the calendar lacks are dropped."""
        return [(self.place[key], value) for key, value in values if key in self.place]


def _trouble(path: str, size: int) -> Damage | None:
    try:
        there = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Damage(State.LOST, f"its file {path} is gone", (path,))
    except OSError as error:
        return Damage(State.SHORT, f"its file {path} cannot be looked at: {error.strerror}", (path,))
    if not stat.S_ISREG(there.st_mode):
        return Damage(State.LOST, f"its file {path} is gone, something else has its name", (path,))
    if there.st_size == size:
        return None
    return Damage(State.SHORT, f"its file {path} has {there.st_size:,} bytes of {size:,}", (path,))


def _found_before(damage: FoundDamage | None, path: str) -> Damage | None:
    """What a deep check found of a file, as long as that file is the pair's."""
    if damage is None or os.path.basename(path) not in damage.names:
        return None
    return Damage(State.SHORT, damage.reason, (path,))


def _both(one: Damage | None, other: Damage) -> Damage:
    """Of two damages of a pair the worse, with the files of both."""
    if one is None:
        return other
    worse = other if other.state is State.LOST else one
    return worse._replace(paths=(*one.paths, *other.paths))


def _damaged_files(receipts: Iterable[tuple[int, Sequence[StoredFile]]]) -> dict[int, Damage]:
    found: dict[int, Damage] = {}
    for at, files in receipts:
        for file in files:
            trouble = _trouble(file.path, file.bytes)
            if trouble:
                found[at] = _both(found.get(at), trouble)
    return found


def _of(values: Sequence[Any], here: BoolArray) -> Sequence[Any]:
    return values if here.all() else [value for value, is_here in zip(values, here.tolist(), strict=True) if is_here]


def _chosen(keys: Sequence[str], pairs: BoolArray) -> list[str]:
    return [keys[at] for at in np.flatnonzero(pairs).tolist()]


def _either(one: BoolArray | None, other: BoolArray | None) -> BoolArray | None:
    return None if one is None or other is None else one | other
