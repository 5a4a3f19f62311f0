"""Why a pair is as it is: the shortest chain of causes, from the pair back to what came first.

Belongs here: following causes upstream, from one pair to the next. Not here: judging pairs (`states.py`), what would
mend it (`platform_assets/plans/`).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from platform_assets.asset_graph.graph import Graph, named
from platform_assets.partition_checker.activity import activity, attempts
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.stalls import remedy, unsettled_pairs, why_nobody_builds
from platform_assets.partition_checker.states import PairState, State
from resources.ledger import Input, Receipt

Pair = tuple[str, str]


@dataclass(frozen=True)
class Link:
    """One step of a chain: the pair, and in words what is the matter with it."""

    asset: str
    partition: str
    state: State
    words: str

    def __str__(self) -> str:
        return f"{named(self.asset, self.partition)} {self.words}"


class Causes:
    """Follows causes through the pairs of one environment; each pair is looked at once."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._judged = inspector.judged(dict.fromkeys(inspector.graph.named))

    @property
    def graph(self) -> Graph:
        """The graph that is followed."""
        return self._inspector.graph

    def state(self, asset: str, partition: str) -> PairState:
        """How a pair stands."""
        judged = self._judged[asset]
        return judged.pair(judged.facts.place[partition])

    def chain(self, asset: str, partition: str) -> list[Link]:
        """From the pair to its nearest first cause: each link is what the one before waits for, or was built from."""
        before: dict[Pair, Pair | None] = {(asset, partition): None}
        queue = deque(before)
        while queue:
            pair = queue.popleft()
            further = [cause for cause in self._causes(*pair) if cause not in before]
            if not further:
                return [self._link(*step) for step in _path(before, pair)]
            for cause in further:
                before[cause] = pair
                queue.append(cause)
        raise AssertionError("unreachable: a pair without further causes ends the search")

    def _causes(self, asset: str, partition: str) -> Iterator[Pair]:
        state = self.state(asset, partition).state
        if state in (State.MISSING, State.LATE):
            yield from self._unverified_upstream(asset, partition)
        elif state is State.OUTDATED and self._same_code(asset, partition):
            yield from ((read.asset, read.partition) for read in self._changed(asset, partition))
        elif state is State.VERIFIED:
            # What it was built from may be gone since: it stands, and could not be built again.
            upstream = list(self._unverified_upstream(asset, partition))
            yield from upstream or self._rebuilt_from(asset, partition)

    def _unverified_upstream(self, asset: str, partition: str) -> Iterator[Pair]:
        node, facts = self.graph.named[asset], self._judged[asset].facts
        for upstream, requirement in self.graph.requirements(node).items():
            judged = self._judged[upstream]
            if node.location is not None and node.completeness.needs(upstream):
                for at in requirement.upstream_of(facts.place[partition]):
                    if not judged.verified[at]:
                        yield upstream, judged.facts.partitions[at]

    def _same_code(self, asset: str, partition: str) -> bool:
        facts = self._judged[asset].facts
        return bool(facts.same_code[facts.place[partition]])

    def _changed(self, asset: str, partition: str) -> Iterator[Input]:
        """What the pair read and holds something else now, is recorded no longer, or is read only now."""
        receipt = self._inspector.ledger.current(asset, [partition])[partition]
        read = {(one.asset, one.partition): one for one in receipt.inputs}
        facts = self._judged[asset].facts
        for upstream, requirement in self.graph.requirements(self.graph.named[asset]).items():
            theirs = self._judged[upstream].facts
            for at in requirement.upstream_of(facts.place[partition]):
                pair = upstream, theirs.partitions[at]
                if theirs.recorded[at] and (pair not in read or read[pair].content != theirs.contents[at]):
                    yield Input(*pair, theirs.ids[at], theirs.contents[at])
                elif pair in read and not theirs.recorded[at] and not theirs.is_delivered:
                    yield read[pair]

    def _rebuilt_from(self, asset: str, partition: str) -> Iterator[Pair]:
        """The inputs by which the current receipt of a pair differs from the one before it."""
        if self.graph.named[asset].location is None:
            return
        now, *older = self._inspector.ledger.history(asset, partition)[:2]
        if older and older[0].read_as != now.read_as and older[0].code_version == now.code_version:
            before = {(read.asset, read.partition): read.content for read in older[0].inputs}
            for read in now.inputs:
                if before.get((read.asset, read.partition)) != read.content:
                    yield read.asset, read.partition

    def _link(self, asset: str, partition: str) -> Link:
        pair = self.state(asset, partition)
        return Link(asset, partition, pair.state, self._words(pair))

    def _words(self, pair: PairState) -> str:
        if self.graph.named[pair.asset].location is None:
            return self._delivery(pair)
        if pair.state is State.VERIFIED:
            built = f"is verified: {_built(self._inspector.ledger.history(pair.asset, pair.partition))}"
            waits = next(self._unverified_upstream(pair.asset, pair.partition), None)
            return f"{built}. It could not be built again now, because it needs" if waits else built
        said = f"is {pair.state}: {pair.reason}"
        if pair.state in (State.MISSING, State.LATE):
            waits = next(self._unverified_upstream(pair.asset, pair.partition), None)
            return f"{said}, {'because it needs' if waits else self._why_not_built(pair)}"
        if pair.state is State.OUTDATED and self._same_code(pair.asset, pair.partition):
            older = next(self._changed(pair.asset, pair.partition), None)
            return f"{said}: it was built from an older" if older else f"{said}: it reads other pairs than it did"
        if pair.state is State.FAILED:
            return said
        history = self._inspector.ledger.history(pair.asset, pair.partition)
        return f"{said}. Its receipt: {_built(history)}" if history else said

    def _why_not_built(self, pair: PairState) -> str:
        """Of a pair of which all that it needs is there: who builds it, or why nobody does and what to do."""
        inspector, node = self._inspector, self.graph.named[pair.asset]
        going = activity(inspector.instance, self.graph)
        at = node.pairs.index(pair.partition)
        if going.under_way[node.name][at]:
            return "all that it needs is there, and a run or a backfill is to build it"
        if unsettled_pairs(self.graph, going)[node.name][at]:
            return "all that it needs is there, and it waits for what that is built from, which is being built"
        one = np.zeros(len(node.pairs), np.bool_)
        one[at] = True
        tried = attempts(inspector.instance, self.graph, {node.name: one}).get(node.name, {}).get(pair.partition)
        why = why_nobody_builds(node, going, tried)
        return f"though all that it needs is there: {why}. {remedy(node, pair.partition, going)}"

    def _delivery(self, pair: PairState) -> str:
        if pair.state is not State.VERIFIED:
            return f"is {pair.state}: {pair.reason}; it comes from outside, so deliver it"
        facts = self._judged[pair.asset].facts
        return f"was delivered, now in version {facts.contents[facts.place[pair.partition]]}"


def _path(before: dict[Pair, Pair | None], end: Pair) -> list[Pair]:
    found: list[Pair] = []
    step: Pair | None = end
    while step is not None:
        found.append(step)
        step = before[step]
    return found[::-1]


def _built(history: list[Receipt]) -> str:
    now, *older = history
    when = datetime.fromtimestamp(now.recorded_at).astimezone().isoformat(sep=" ", timespec="seconds")
    what = "confirmed" if now.reused else "built"
    rows = "" if now.rows is None else f", {now.rows:,} rows"
    again = "" if not older or older[0].read_as == now.read_as else ", with other content than before"
    return f"{what} by run {now.run_id} at {when} from {len(now.inputs)} inputs{rows}{again}"
