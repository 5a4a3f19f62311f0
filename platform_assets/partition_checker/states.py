"""What state each pair is in: pure comparison of receipts, storage, attempts and calendar.

Belongs here: the states, their order of precedence, and judging one asset's pairs. Not here: where the facts come
from (`inspection.py`), what a gate or a command does about a state.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum

from platform_assets.partition_checker.requirements import Requirement
from resources.ledger import Standing, contents_digest


class State(StrEnum):
    """How a pair stands; only the first may be built upon."""

    VERIFIED = "verified"
    MISSING = "missing"
    LOST = "lost"
    SHORT = "short"
    EMPTY = "empty"
    UNRECORDED = "unrecorded"
    OUTDATED = "outdated"
    FAILED = "failed"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class PairState:
    """A pair's state; `rows` are those that storage holds, None where nothing is counted."""

    asset: str
    partition: str
    state: State
    rows: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """What storage holds of a pair; `gone` or `damage` say which file is missing or of another size."""

    rows: int | None
    gone: str = ""
    damage: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of one asset.

    `stored` is None where storage is not ours to inspect. `delivered` holds the data versions of what an upstream
    system delivered, by partition; such an asset has no receipts.
    """

    asset: str
    partitions: Sequence[str]
    standings: Mapping[str, Standing] = field(default_factory=dict)
    stored: Mapping[str, Stored] | None = None
    requirements: Mapping[str, Requirement] = field(default_factory=dict)
    code_version: str | None = None
    may_be_empty: bool = True
    failed: Mapping[str, str] = field(default_factory=dict)
    due: Set[str] = frozenset()
    delivered: Mapping[str, str] | None = None

    def content(self, partition: str) -> str:
        """Digest of what the pair holds by its receipt; empty when there is none."""
        if self.delivered is not None:
            return self.delivered.get(partition, "")
        standing = self.standings.get(partition)
        return standing.content if standing else ""


def judge(facts: Facts, upstream: Mapping[str, Facts], partitions: Iterable[str] | None = None) -> Iterator[PairState]:
    """The state of each of `partitions` (None: all), given the facts of every asset that `facts` requires."""
    number = {key: index for index, key in enumerate(facts.partitions)}
    for partition in facts.partitions if partitions is None else partitions:
        found = presence(facts, partition)
        if found.state is State.VERIFIED and facts.delivered is None:
            state, reason = _against_inputs(facts, upstream, partition, number[partition])
            found = replace(found, state=state, reason=reason)
        yield found


def presence(facts: Facts, partition: str) -> PairState:
    """Whether a pair is recorded and stored as recorded; nothing about what it was built from."""
    if facts.delivered is not None:
        return _delivery(facts, partition)
    if partition not in facts.standings:
        return _without_receipt(facts, partition)
    state, reason = _against_storage(facts, partition)
    return PairState(facts.asset, partition, state, _rows(facts, partition), reason)


def inputs_of(facts: Facts, upstream: Mapping[str, Facts], index: int) -> Iterator[tuple[str, str]]:
    """The (asset, partition) of every upstream pair that the pair with number `index` requires."""
    for asset, requirement in facts.requirements.items():
        keys = upstream[asset].partitions
        for at in requirement.upstream_of(index):
            yield asset, keys[at]


def _delivery(facts: Facts, partition: str) -> PairState:
    if partition in (facts.delivered or {}):
        return PairState(facts.asset, partition, State.VERIFIED, None)
    state = State.LATE if partition in facts.due else State.MISSING
    return PairState(facts.asset, partition, state, None, "its upstream system has not delivered it")


def _without_receipt(facts: Facts, partition: str) -> PairState:
    stored = (facts.stored or {}).get(partition)
    if stored is not None and not stored.gone:
        reason = "it is in storage, and no receipt says how it came there"
        return PairState(facts.asset, partition, State.UNRECORDED, stored.rows, reason)
    if partition in facts.failed:
        return PairState(
            facts.asset, partition, State.FAILED, None, f"run {facts.failed[partition]} failed to build it"
        )
    if partition in facts.due:
        return PairState(facts.asset, partition, State.LATE, None, "it was expected by now and was never built")
    return PairState(facts.asset, partition, State.MISSING, None, "it was never built")


def _against_storage(facts: Facts, partition: str) -> tuple[State, str]:
    rows = facts.standings[partition].rows
    if facts.stored is not None:
        stored = facts.stored.get(partition)
        if stored is None and rows != 0:
            return State.LOST, "recorded, but storage has nothing of it"
        if stored is not None:
            if stored.gone:
                return State.LOST, stored.gone
            if stored.damage:
                return State.SHORT, stored.damage
            if stored.rows is not None and stored.rows != rows:
                return State.SHORT, f"its receipt says {rows:,} rows, storage has {stored.rows:,}"
    if rows == 0 and not facts.may_be_empty:
        return State.EMPTY, "it has no rows, which the asset declares it may not"
    return State.VERIFIED, ""


def _against_inputs(facts: Facts, upstream: Mapping[str, Facts], partition: str, index: int) -> tuple[State, str]:
    standing = facts.standings[partition]
    if partition in facts.failed:
        return State.FAILED, f"run {facts.failed[partition]} failed to build it again; what is stored is from before"
    if facts.code_version is not None and facts.code_version != standing.code_version:
        return State.OUTDATED, "its code has changed since it was built"
    inputs = inputs_of(facts, upstream, index)
    now = contents_digest([(asset, key, upstream[asset].content(key)) for asset, key in inputs])
    if now != standing.inputs_content:
        return State.OUTDATED, "an input has changed since it was built"
    return State.VERIFIED, ""


def _rows(facts: Facts, partition: str) -> int | None:
    stored = (facts.stored or {}).get(partition)
    return stored.rows if stored is not None and stored.rows is not None else facts.standings[partition].rows
