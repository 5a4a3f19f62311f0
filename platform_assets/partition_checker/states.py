"""What state each pair is in: pure comparison of receipts, storage, attempts and calendar.

Belongs here: the states, their order of precedence, and judging all pairs of an asset at once. Not here: where the
facts come from (`facts.py`), what a gate or a command does about a state.

A million pairs are judged in seconds: facts are columns, one entry a pair, in the order of the asset's partitions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from platform_assets.asset_graph.requirements import BoolArray, IntArray, Requirement
from resources.ledger import Input, Marks

FloatArray = NDArray[np.float64]

NONE = -1
"""No rows to count, or none stored."""

FORGED = "its receipt was changed by hand after it was written, so nothing vouches for it"
"""The reason of a pair whose receipt is not as it was written."""


class State(StrEnum):
    """How a pair stands; only the first may be built upon."""

    VERIFIED = "verified"
    MISSING = "missing"
    LATE = "late"
    FAILED = "failed"
    UNRECORDED = "unrecorded"
    LOST = "lost"
    SHORT = "short"
    EMPTY = "empty"
    OUTDATED = "outdated"


STATES = tuple(State)
"""The states by number, as `Judged.states` holds them."""


@dataclass(frozen=True, slots=True)
class PairState:
    """A pair's state; `rows` are those that storage holds, None where nothing is counted or what was is lost."""

    asset: str
    partition: str
    state: State
    rows: int | None
    reason: str = ""


class Damage(NamedTuple):
    """What is wrong with the files of a pair: the state that it puts the pair in, why, and which files these are."""

    state: State
    reason: str
    paths: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of the pairs of one asset.

    Attributes:
        asset: "team/entity".
        partitions: every key in order.
        recorded: there is a receipt; for what an upstream system delivers, a delivery.
        ids: of the receipts; "" where there is none. The data version of a delivery.
        contents: what readers compare, by receipt; "" where there is none. The data version of a delivery.
        marks: of the content; zeros where there is none.
        inputs_marks: the sum of what it read, by receipt.
        same_code: the receipt names the asset's present code version.
        forged: the receipt is not as it was written.
        rows: by receipt; NONE where nothing is counted.
        recorded_at: seconds since 1970 when the receipt was written; 0 where there is none.
        stored_rows: in storage; NONE where storage holds nothing or is not counted.
        is_stored: storage holds something.
        rewritten: by position, who wrote to storage after the receipt.
        damaged: by position, what is wrong with the files.
        failed: by position, why the last attempt failed.
        building: by position, the run that is at it now.
        due: expected by now.
        immutable: no change of code or input makes it outdated.
        is_delivered: an upstream system builds it; there are neither receipts nor storage of ours.
        may_be_empty: a pair without rows is as it should be.
        counts: storage can be asked how many rows it holds.
    """

    asset: str
    partitions: Sequence[str]
    recorded: BoolArray
    ids: list[str]
    contents: list[str]
    marks: Marks
    inputs_marks: Marks
    same_code: BoolArray
    forged: BoolArray
    rows: IntArray
    recorded_at: FloatArray
    stored_rows: IntArray
    is_stored: BoolArray
    due: BoolArray
    immutable: BoolArray
    rewritten: Mapping[int, str] = field(default_factory=dict)
    damaged: Mapping[int, Damage] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    building: Mapping[int, str] = field(default_factory=dict)
    is_delivered: bool = False
    may_be_empty: bool = True
    counts: bool = True

    @cached_property
    def place(self) -> Mapping[str, int]:
        """The position of each partition key."""
        return {key: at for at, key in enumerate(self.partitions)}


@dataclass(frozen=True, eq=False)
class AssetStates:
    """The states of an asset's pairs, by their number in STATES, and the reason of each."""

    facts: Facts
    states: IntArray

    @property
    def verified(self) -> BoolArray:
        """The pairs that may be built upon."""
        found: BoolArray = self.states == STATES.index(State.VERIFIED)
        return found

    @property
    def settled(self) -> BoolArray:
        """The pairs that no run is building now."""
        return ~_at(self.facts, self.facts.building)

    def pair(self, position: int) -> PairState:
        """The pair at that position among the asset's partitions."""
        facts = self.facts
        state = STATES[self.states[position]]
        rows = int(facts.stored_rows[position])
        rows = rows if facts.counts and rows != NONE else int(facts.rows[position])
        known = rows != NONE and state is not State.LOST
        return PairState(
            facts.asset, facts.partitions[position], state, rows if known else None, self._reason(position)
        )

    def pairs(self, wanted: BoolArray | None = None) -> Iterator[PairState]:
        """Every pair, or the `wanted` ones."""
        positions = range(len(self.states)) if wanted is None else np.flatnonzero(wanted).tolist()
        return map(self.pair, positions)

    def _reason(self, position: int) -> str:
        run, why = self.facts.building.get(position), self._cause(position)
        return f"{why}; run {run} is building it now" if run and why else why

    def _cause(self, position: int) -> str:
        facts, state = self.facts, STATES[self.states[position]]
        if position in facts.damaged and state in (State.LOST, State.SHORT):
            return facts.damaged[position].reason
        if state is State.UNRECORDED:
            if not facts.recorded[position]:
                why = f"; {facts.failed[position]}" if position in facts.failed else ""
                return f"it is in storage, and no receipt says how it came there{why}"
            if facts.forged[position]:
                return FORGED
            return f"storage was written to after its receipt, by {facts.rewritten[position]}"
        if state is State.FAILED:
            left = "; what is stored is from before" if facts.recorded[position] else ""
            return f"{facts.failed[position]}{left}"
        if state is State.SHORT:
            said, stored = int(facts.rows[position]), int(facts.stored_rows[position])
            return f"its receipt says {said:,} rows, storage has {stored:,}"
        if state is State.OUTDATED:
            what = "its code" if not facts.same_code[position] else "an input"
            return f"{what} has changed since it was built"
        if facts.is_delivered and state in (State.LATE, State.MISSING):
            return "its upstream system has not delivered it"
        return _REASONS[state]


_REASONS = {
    State.VERIFIED: "",
    State.MISSING: "it was never built",
    State.LATE: "it was expected by now and was never built",
    State.LOST: "recorded, but storage has nothing of it",
    State.EMPTY: "it has no rows, which the asset declares it may not",
}


def judge(facts: Facts, upstream: Mapping[str, Facts], requirements: Mapping[str, Requirement]) -> AssetStates:
    """The state of every pair, given the facts of every asset that the asset requires."""
    stored = presence(facts)
    if facts.is_delivered:
        return stored
    outdated = ~facts.same_code | inputs_changed(facts, upstream, requirements)
    states = stored.states.copy()
    fine = stored.verified
    states[fine & outdated & ~facts.immutable] = STATES.index(State.OUTDATED)
    failed = _at(facts, facts.failed)
    states[fine & failed] = STATES.index(State.FAILED)
    return AssetStates(facts, states)


def presence(facts: Facts) -> AssetStates:
    """Whether each pair is recorded and stored as recorded; nothing about what it was built from."""
    if facts.is_delivered:
        return AssetStates(
            facts, _chosen(facts, [(facts.recorded, State.VERIFIED), (facts.due, State.LATE)], State.MISSING)
        )
    without = ~facts.recorded
    gone = _at(facts, {at: "" for at, damage in facts.damaged.items() if damage.state is State.LOST})
    damaged = _at(facts, facts.damaged) & ~gone
    holds_rows = facts.rows != 0
    rules = [
        (without & facts.is_stored & ~gone, State.UNRECORDED),
        (without & _at(facts, facts.failed), State.FAILED),
        (without & facts.due, State.LATE),
        (without, State.MISSING),
        (facts.forged, State.UNRECORDED),
        (gone | (~facts.is_stored & holds_rows), State.LOST),
        (damaged, State.SHORT),
        (facts.is_stored & (facts.stored_rows != facts.rows) & facts.counts, State.SHORT),
        (_at(facts, facts.rewritten), State.UNRECORDED),
        (~holds_rows & (not facts.may_be_empty), State.EMPTY),
    ]
    return AssetStates(facts, _chosen(facts, rules, State.VERIFIED))


def inputs_changed(facts: Facts, upstream: Mapping[str, Facts], requirements: Mapping[str, Requirement]) -> BoolArray:
    """The recorded pairs of which an input's content is no longer what the receipt says was read.

    A delivery that is not recorded tells nothing: a pair that reads one is not called changed.
    """
    now = np.zeros_like(facts.inputs_marks)
    unknown = np.zeros(len(facts.partitions), np.bool_)
    for asset, requirement in requirements.items():
        now += requirement.sums(upstream[asset].marks)
        if upstream[asset].is_delivered:
            unknown |= requirement.affected(~upstream[asset].recorded)
    changed: BoolArray = facts.recorded & ~unknown & (now != facts.inputs_marks).any(axis=1)
    return changed


def inputs_of(
    facts: Mapping[str, Facts], requirements: Mapping[str, Requirement], asset: str, partition: str
) -> tuple[Input, ...]:
    """The recorded upstream pairs that a pair requires, as they stand in `facts`."""
    at = facts[asset].place[partition]
    return tuple(
        Input(upstream, known.partitions[number], known.ids[number], known.contents[number])
        for upstream, requirement in requirements.items()
        for known in [facts[upstream]]
        for number in requirement.upstream_of(at)
        if known.recorded[number]
    )


def _chosen(facts: Facts, rules: Sequence[tuple[BoolArray, State]], otherwise: State) -> IntArray:
    """For each pair the state of the first rule that holds."""
    return np.select([rule for rule, _ in rules], [STATES.index(state) for _, state in rules], STATES.index(otherwise))


def _at(facts: Facts, positions: Mapping[int, object]) -> BoolArray:
    found = np.zeros(len(facts.partitions), np.bool_)
    found[list(positions)] = True
    return found
