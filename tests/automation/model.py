"""A pure model of automation: conditions, requests, runs, checks, confirmations, failures, deliveries at any moment.

Belongs here: what Dagster's evaluation of our conditions amounts to, what runs do to the event log and to receipts, and
what must hold whatever happens in which order. Not here: Dagster itself (`reality.py` replays what happened here on a
real instance and compares every request).

A schedule is a list of steps; a step that makes no sense at its moment does nothing. Afterwards `settle` lets all that
is under way come to its end, and `complaints` says what should have been built and was not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from tests.automation.world import ASSETS, BUILT, NUMBER, Pairs, bits

QUEUED, STARTED, SUCCESS, FAILURE, CANCELED = "queued", "started", "success", "failure", "canceled"
ACTIVE = (QUEUED, STARTED)
PLANNED, PASSED, FAILED = "planned", "passed", "failed"
NOBODY = -1
"""The run of what an upstream system delivered."""

_ROUNDS = 30
"""So many times all runs may end and automation look again, before it counts as going on for ever."""

Step = tuple[str, int, int]
"""What happens, and two numbers that say to whom."""


class Rules(NamedTuple):
    """How automation decides; the defaults are the product's, the others were once and are known to stall.

    Attributes:
        planned_holds_back: a reader waits until the newest record of every blocking check of its upstream is a pass.
        confirming_answers: a run evaluates the checks of pairs that it only confirms.
        building_handles_all: whatever moved before a pair was recorded counts as built into it.
        requesting_handles_failures: a run that fails before automation looks again counts as still to come.
        retries_what_dagster_does: a run whose worker died is asked for again though Dagster launches it again itself.
        waits_for_the_nearest: a reader waits for what it reads to be built, not for what that is to be built from.
    """

    planned_holds_back: bool = False
    confirming_answers: bool = True
    building_handles_all: bool = False
    requesting_handles_failures: bool = False
    retries_what_dagster_does: bool = False
    waits_for_the_nearest: bool = False


PRODUCT = Rules()
PARENT = Rules(
    planned_holds_back=True,
    confirming_answers=False,
    building_handles_all=True,
    requesting_handles_failures=True,
    retries_what_dagster_does=True,
    waits_for_the_nearest=True,
)


class Violation(AssertionError):
    """Something that must hold does not; the message says what."""


@dataclass(eq=False)
class Run:
    """One run: what it is to build, how far it is, and what its step saw when it began.

    `seen`, `read` and `intact` are what it saw then; `planned` is when, by asset, and `since` when it last went on.
    """

    number: int
    jobs: tuple[tuple[int, Pairs], ...]
    forced: bool
    again: bool = False
    status: str = QUEUED
    done: int = 0
    planned: dict[int, int] = field(default_factory=dict)
    since: int = 0
    seen: list[list[Any]] = field(default_factory=list)
    intact: list[Pairs] = field(default_factory=list)
    read: list[list[Any]] = field(default_factory=list)
    refused: dict[int, Pairs] = field(default_factory=dict)


class Model:
    """The world at one moment; `trace` lists what happened, as `reality.py` replays it."""

    def __init__(self, rules: Rules = PRODUCT, traced: bool = False) -> None:
        self.rules = rules
        self.trace: list[tuple[Any, ...]] | None = [] if traced else None
        self.clock = 0
        self.runs: list[Run] = []
        self.to_relaunch: list[Run] = []
        self.in_vain: list[str] = []
        sizes = [len(asset.keys) for asset in ASSETS]
        self.content: list[list[Any]] = [[None] * size for size in sizes]
        self.read: list[list[Any]] = [[None] * size for size in sizes]
        self.recorded, self.lost, self.broken, self.cancelled = ([0] * len(sizes) for _ in range(4))
        self.event = [[0] * size for size in sizes]
        self.event_run = [[NOBODY] * size for size in sizes]
        self.plan = [[0] * size for size in sizes]
        self.plan_run: list[list[Run | None]] = [[None] * size for size in sizes]
        self.verdict: list[list[tuple[int, str, int]]] = [[(NOBODY, "", 0)] * size for size in sizes]
        self.found_lost = [[0] * size for size in sizes]
        # What the evaluation of the conditions keeps from one look to the next.
        self.looked = self.settled = self.troubled = False
        self.updated, self.wanted, self.was_missing, self.was_failed, self.once_failed = (
            [0] * len(sizes) for _ in range(5)
        )
        self.was_once_failed, self.was_requested, self.known_failed = ([0] * len(sizes) for _ in range(3))

    # What happens -----------------------------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """Let one step happen."""
        what, one, two = step
        active = [run for run in self.runs if run.status in ACTIVE]
        if what == "look":
            self.look()
        elif what == "deliver":
            self.deliver(one, two)
        elif what == "relaunch":
            self.relaunch()
        elif what == "restart":
            for run in active:
                if run.status == STARTED:
                    self.end(run, FAILURE, again=True)
        elif what == "lose":
            self.lose(BUILT[one % len(BUILT)], two)
        elif what == "by hand":
            self.launch_by_hand(BUILT[one % len(BUILT)], two)
        elif active:
            run = active[one % len(active)]
            if what == "go on":
                self.go_on(run)
            elif what == "fail":
                self.end(run, FAILURE)
            elif what == "crash":
                self.end(run, FAILURE, again=True)
            elif what == "cancel":
                self.end(run, CANCELED)

    def deliver(self, one: int, two: int) -> None:
        """A new, corrected or bad version of a partition comes from outside; its event is no run's."""
        asset = (NUMBER["src"], NUMBER["src"], NUMBER["plans"], NUMBER["notes"])[one % 4]
        pair = two % len(ASSETS[asset].keys)
        is_bad = two % 11 == 0 and asset != NUMBER["notes"]
        self.content[asset][pair] = ("bad" if is_bad else "good", self.clock)
        self._record(asset, 1 << pair, NOBODY)

    def lose(self, asset: int, two: int) -> None:
        """A stored pair vanishes, and the Partition Checker says so."""
        pair = two % len(ASSETS[asset].keys)
        if self.recorded[asset] >> pair & 1 and not self.lost[asset] >> pair & 1:
            self.lost[asset] |= 1 << pair
            self.troubled = True
            self.found_lost[asset][pair] = self.event[asset][pair]
            self._note("lose", asset, pair)

    def launch_by_hand(self, asset: int, pairs: Pairs) -> None:
        """A person launches a run, which computes whatever it is asked for; a pair in progress is left alone."""
        pairs &= ASSETS[asset].full & ~self._in_progress(asset) & ~self._comes_again(asset)
        if pairs:
            self.launch(((asset, pairs),), forced=True)

    def launch(self, jobs: tuple[tuple[int, Pairs], ...], forced: bool = False) -> Run:
        """A run is created: what it will build, and the checks it will evaluate, are planned."""
        run = Run(len(self.runs), jobs, forced)
        self.runs.append(run)
        for asset, pairs in jobs:
            run.planned[asset] = self.clock + 1
            for pair in bits(pairs):
                self.clock += 1
                self.plan[asset][pair], self.plan_run[asset][pair] = self.clock, run
                self.verdict[asset][pair] = (run.number, PLANNED, 0)
        self._note("launch", run.number, jobs)
        return run

    def relaunch(self) -> None:
        """Dagster launches runs again whose worker was killed."""
        for run in self.to_relaunch:
            self.launch(run.jobs, run.forced).again = True
        self.to_relaunch.clear()

    def go_on(self, run: Run) -> None:
        """A run begins, or its step computes and records its next asset."""
        if run.status == QUEUED:
            run.status = STARTED
            self._note("start", run.number)
            run.since = self.clock
            run.seen, run.read = [list(content) for content in self.content], [list(read) for read in self.read]
            run.intact = [self._intact(asset) for asset in range(len(ASSETS))]
            if any(not self._stands(*need) for need in self._needed(run)):
                self.end(run, FAILURE, began=False)
            return
        asset, pairs = run.jobs[run.done]
        run.done += 1
        recorded = confirmed = refused = 0
        for pair in bits(pairs):
            reads, behind = self._inputs(run.seen, asset, pair), self._behind_refused(run, asset, pair)
            if behind:
                run.refused[asset] = run.refused.get(asset, 0) | 1 << pair
            elif not run.forced and run.intact[asset] >> pair & 1 and run.read[asset][pair] == reads:
                confirmed |= 1 << pair
            elif any(content[0] == "bad" for *_, content in reads):
                refused |= 1 << pair
                run.refused[asset] = run.refused.get(asset, 0) | 1 << pair
            else:
                recorded |= 1 << pair
                if self._is_in_vain(asset, pair, reads):
                    self.in_vain.append(f"{named(asset, pair)} was computed again by run {run.number}")
                self.read[asset][pair] = reads
                self.content[asset][pair] = run.seen[asset][pair] = ("made", reads)
        for pair in bits(refused):
            # The evaluation comes first: what it refuses is not recorded.
            self._evaluate(run, asset, pair, FAILED)
        self.broken[asset] |= refused
        self._record(asset, recorded | confirmed, run.number)
        for pair in bits(recorded | (confirmed if self.rules.confirming_answers else 0)):
            self._evaluate(run, asset, pair, PASSED)
        run.since = self.clock
        if run.done == len(run.jobs):
            self.end(run, FAILURE if run.refused else SUCCESS, began=False)

    def end(self, run: Run, status: str, again: bool = False, began: bool = True) -> None:
        """A run ends; `began`: in the middle of its step, so that the pairs at hand are left as attempted."""
        if run.status == STARTED and began and run.done < len(run.jobs):
            asset, pairs = run.jobs[run.done]
            # What another run has recorded meanwhile is no longer this run's attempt.
            left = sum(1 << at for at in bits(pairs) if self.event[asset][at] <= run.since)
            self.broken[asset] |= left
            self.cancelled[asset] = self.cancelled[asset] & ~left | (left if status == CANCELED else 0)
        run.status = status
        self.troubled |= status != SUCCESS
        if again:
            self.to_relaunch.append(run)
        self._note("end", run.number, status, again)

    def _record(self, asset: int, pairs: Pairs, run: int) -> None:
        for pair in bits(pairs):
            self.clock += 1
            self.event[asset][pair], self.event_run[asset][pair] = self.clock, run
        self.recorded[asset] |= pairs
        self.updated[asset] |= pairs
        self.lost[asset] &= ~pairs
        self.broken[asset] &= ~pairs
        self.cancelled[asset] &= ~pairs
        if pairs:
            self._note("record", asset, pairs, run)

    def _evaluate(self, run: Run, asset: int, pair: int, status: str) -> None:
        if self.verdict[asset][pair][0] == run.number:
            self.verdict[asset][pair] = (run.number, status, self.event[asset][pair])
        self._note("evaluate", run.number, asset, pair, status)

    def _note(self, *what: Any) -> None:
        self.settled = False
        if self.trace is not None:
            self.trace.append(what)

    # What automation sees ---------------------------------------------------------------------------------------------

    def look(self) -> dict[int, Pairs]:
        """One look of automation: what it requests is launched at once, one run for each calendar.

        It is left out when nothing has happened since one that requested nothing.
        """
        if self.settled:
            self._note("leave out")
            self.settled = True
            return {}
        requested: dict[int, Pairs] = {}
        updated = self.updated if self.looked else [0] * len(ASSETS)
        going = {asset: self._in_progress(asset) | self._comes_again(asset) for asset in BUILT}
        unsettled = [0] * len(ASSETS)
        for asset in BUILT:
            moved = 0
            for dep in ASSETS[asset].deps:
                comes = requested.get(dep.upstream, 0) if dep.shares_runs else 0
                moved |= dep.down[self._news(asset, dep.upstream, updated[dep.upstream]) | comes]
            missing = ASSETS[asset].full & ~self.recorded[asset]
            failed = self._failed(asset)
            now_failed = failed & ~going[asset]
            rebuilt = updated[asset] if self.rules.requesting_handles_failures else updated[asset] & ~failed
            once_failed = (self.once_failed[asset] | now_failed & ~self.was_failed[asset]) & ~(moved | rebuilt)
            handled = rebuilt & ~self._overtaken(asset, rebuilt)
            retried = once_failed & ~self.was_once_failed[asset]
            failing = 0 if self.rules.requesting_handles_failures else retried
            wanted = self.wanted[asset] | missing & ~self.was_missing[asset] | moved | retried
            if not self.looked:
                wanted |= self._overtaken(asset, self.recorded[asset])
            wanted &= ~(self.was_requested[asset] & ~moved & ~failing | handled)
            self.wanted[asset], self.was_missing[asset], self.was_failed[asset] = wanted, missing, now_failed
            self.once_failed[asset] = self.was_once_failed[asset] = once_failed
            if self.rules.waits_for_the_nearest:
                unsettled = [going.get(upstream, 0) for upstream in range(len(ASSETS))]
            found = wanted & ~self._waits(asset, requested, unsettled) & ~going[asset]
            unsettled[asset] = found | going[asset]
            for dep in ASSETS[asset].deps:
                unsettled[asset] |= dep.down[unsettled[dep.upstream]]
            self.was_requested[asset] = found
            if found:
                requested[asset] = found
        self.looked, self.updated = True, [0] * len(ASSETS)
        self._note("look", dict(requested))
        self._refuse_early(requested)
        calendars: dict[str, list[tuple[int, Pairs]]] = {}
        for asset, pairs in requested.items():
            calendars.setdefault(ASSETS[asset].calendar, []).append((asset, pairs))
        for jobs in calendars.values():
            self.launch(tuple(jobs))
        self.settled = not requested
        return requested

    def _news(self, asset: int, upstream: int, updated: Pairs) -> Pairs:
        """What was updated upstream. Once, the pair that was recorded last did not count if its run shared `asset`."""
        if self.rules.building_handles_all and updated:
            last = max(range(len(ASSETS[upstream].keys)), key=self.event[upstream].__getitem__)
            run = self.event_run[upstream][last]
            if run != NOBODY and any(asset == built for built, _ in self.runs[run].jobs):
                return updated & ~(1 << last)
        return updated

    def _overtaken(self, asset: int, pairs: Pairs) -> Pairs:
        """Pairs that another run recorded something for while they were being built."""
        found = 0
        if self.rules.building_handles_all:
            return 0
        by_run: dict[int, Pairs] = {}
        for pair in bits(pairs):
            run = self.event_run[asset][pair]
            by_run[run] = by_run.get(run, 0) | 1 << pair
        for run, built in by_run.items():
            since = self.runs[run].planned[asset]
            for dep in ASSETS[asset].deps:
                events, runs = self.event[dep.upstream], self.event_run[dep.upstream]
                news = sum(1 << at for at in range(len(events)) if events[at] > since and runs[at] != run)
                found |= dep.down[news] & built
        return found

    def _waits(self, asset: int, requested: dict[int, Pairs], unsettled: Sequence[Pairs]) -> Pairs:
        waits = 0
        for dep in ASSETS[asset].deps:
            upstream = dep.upstream
            comes = requested.get(upstream, 0) if dep.shares_runs else 0
            if dep.required:
                waits |= dep.down[ASSETS[upstream].full & ~self.recorded[upstream] & ~comes]
            if ASSETS[upstream].delivered:
                continue
            waits |= dep.down[unsettled[upstream] & ~comes]
            if self.rules.planned_holds_back:
                passed = sum(
                    1 << at
                    for at, (_, status, event) in enumerate(self.verdict[upstream])
                    if status == PASSED and event == self.event[upstream][at]
                )
                waits |= ASSETS[asset].full & ~dep.down[passed]
                waits |= dep.down[self._found_lost(upstream)]
            elif dep.required:
                wanting = self._found_lost(upstream) | self._found_bad(upstream)
                waits |= dep.down[wanting & self.recorded[upstream]]
        return waits

    def _in_progress(self, asset: int) -> Pairs:
        found = 0
        for pair, run in enumerate(self.plan_run[asset]):
            if run is not None and run.status in ACTIVE:
                if ASSETS[asset].keys == ("",):
                    # Of an asset without partitions Dagster compares runs, not events.
                    found |= self.event_run[asset][pair] != run.number
                elif self.plan[asset][pair] > self.event[asset][pair]:
                    found |= 1 << pair
        return found

    def _failed(self, asset: int) -> Pairs:
        now = sum(
            1 << pair
            for pair, run in enumerate(self.plan_run[asset])
            if run is not None and run.status == FAILURE and not self._recorded_since(asset, pair, run)
        )
        if ASSETS[asset].keys == ("",):
            return now
        # Dagster remembers a failure until the pair is recorded, whatever is planned meanwhile.
        self.known_failed[asset] = self.known_failed[asset] & ~self.updated[asset] | now
        return self.known_failed[asset]

    def _comes_again(self, asset: int) -> Pairs:
        if self.rules.retries_what_dagster_does:
            return 0
        return sum(
            1 << pair
            for pair, run in enumerate(self.plan_run[asset])
            if run in self.to_relaunch and not self._recorded_since(asset, pair, run)
        )

    def _recorded_since(self, asset: int, pair: int, run: Run) -> bool:
        """Whether a pair was recorded after that run planned it: what a failed run had recorded did not fail."""
        if ASSETS[asset].keys == ("",):
            return self._recorded_by(asset, run)
        return self.event[asset][pair] > self.plan[asset][pair]

    def _recorded_by(self, asset: int, run: Run) -> bool:
        return run.done > [built for built, _ in run.jobs].index(asset) and not run.refused.get(asset)

    def _found_lost(self, asset: int) -> Pairs:
        return sum(1 << at for at, event in enumerate(self.found_lost[asset]) if event == self.event[asset][at] > 0)

    def _found_bad(self, asset: int) -> Pairs:
        return sum(
            1 << at
            for at, (_, status, event) in enumerate(self.verdict[asset])
            if status == FAILED and event == self.event[asset][at]
        )

    # What is so -------------------------------------------------------------------------------------------------------

    def _inputs(self, content: list[list[Any]], asset: int, pair: int) -> tuple[tuple[int, int, Any], ...]:
        return tuple(
            (dep.upstream, at, content[dep.upstream][at])
            for dep in ASSETS[asset].deps
            for at in bits(dep.up[pair])
            if content[dep.upstream][at] is not None
        )

    def _intact(self, asset: int) -> Pairs:
        return self.recorded[asset] & ~self.lost[asset] & ~self.broken[asset]

    def _is_in_vain(self, asset: int, pair: int, reads: Any) -> bool:
        """Whether a pair is computed from what it was built from. A person, or a run launched again, may do so."""
        if any(run.forced or run.again for run in self.runs):
            return False
        return self._intact(asset) >> pair & 1 > 0 and bool(self.read[asset][pair] == reads)

    def _stands(self, asset: int, pair: int) -> bool:
        """Whether a pair may be built upon: what the gate asks."""
        if ASSETS[asset].delivered:
            return bool(self.recorded[asset] >> pair & 1)
        return self._intact(asset) >> pair & 1 > 0 and self.read[asset][pair] == self._inputs(self.content, asset, pair)

    def _needed(self, run: Run) -> Iterable[tuple[int, int]]:
        within = dict(run.jobs)
        for asset, pairs in run.jobs:
            for dep in ASSETS[asset].deps:
                if dep.required:
                    for pair in bits(pairs):
                        for at in bits(dep.up[pair] & ~within.get(dep.upstream, 0)):
                            yield dep.upstream, at

    def _behind_refused(self, run: Run, asset: int, pair: int) -> bool:
        return any(run.refused.get(dep.upstream, 0) & dep.up[pair] for dep in ASSETS[asset].deps)

    # What must hold ---------------------------------------------------------------------------------------------------

    def _refuse_early(self, requested: dict[int, Pairs]) -> None:
        for asset, pairs in requested.items():
            for dep in ASSETS[asset].deps:
                comes = requested.get(dep.upstream, 0) if dep.shares_runs else 0
                for pair in bits(pairs):
                    if dep.required and dep.up[pair] & ~self.recorded[dep.upstream] & ~comes:
                        raise Violation(f"{named(asset, pair)} was requested before what it requires was there")
                    older = [at for at in bits(dep.up[pair] & ~comes) if not self._stands(dep.upstream, at)]
                    if dep.required and older and not self.troubled:
                        what = named(dep.upstream, older[0])
                        raise Violation(f"{named(asset, pair)} was requested before {what} was up to date")

    def settle(self) -> None:
        """Let everything under way end well, and automation look, until nothing moves any more.

        What is lost is rebuilt by hand: a person was told.

        Raises:
            Violation: it goes on and on.
        """
        quiet = 0
        for asset in BUILT:
            self.launch_by_hand(asset, self.lost[asset])
        for _ in range(_ROUNDS):
            self.relaunch()
            for run in self.runs:
                while run.status in ACTIVE:
                    self.go_on(run)
            quiet = 0 if self.look() else quiet + 1
            if quiet == 2:
                return
        raise Violation("automation goes on requesting, though nothing comes from outside any more")

    def complaints(self) -> list[str]:
        """What could have been built and was not, and what was computed without need; empty if all is well."""
        found = list(self.in_vain)
        for asset in BUILT:
            for pair in range(len(ASSETS[asset].keys)):
                said = self._complaint(asset, pair)
                if said:
                    found.append(f"{named(asset, pair)}: {said}")
        return found

    def _complaint(self, asset: int, pair: int) -> str:
        needs = [(dep.upstream, at) for dep in ASSETS[asset].deps if dep.required for at in bits(dep.up[pair])]
        could = all(self._stands(*need) for need in needs)
        reads = self._inputs(self.content, asset, pair)
        is_bad = any(content[0] == "bad" for *_, content in reads)
        stands = self._stands(asset, pair)
        if stands and is_bad:
            return "it was built from what had to be refused"
        run = self.plan_run[asset][pair]
        tried = run is not None and self.plan[asset][pair] > self.event[asset][pair]
        is_left = self.cancelled[asset] >> pair & 1 or (tried and run is not None and run.status == CANCELED)
        if stands or not could or is_left:
            # A person ended the run that was to build it, and is told that it has failed.
            return ""
        failures = sum(
            other.status == FAILURE and (other.number > self.event_run[asset][pair])
            for other in self.runs
            for built, pairs in other.jobs
            if built == asset and pairs >> pair & 1
        )
        if failures >= 2 and tried and run is not None and run.status == FAILURE:
            return ""
        return f"it could be built and is {'recorded from older input' if self.read[asset][pair] else 'missing'}"


def named(asset: int, pair: int) -> str:
    """A pair as people read it."""
    return f"{ASSETS[asset].name}@{ASSETS[asset].keys[pair]}"


_WEIGHTS = {
    "look": 30, "deliver": 22, "go on": 30, "fail": 3, "crash": 2, "cancel": 1, "relaunch": 4, "restart": 1,
    "lose": 1, "by hand": 2,
}  # fmt: skip


def schedule(seed: int) -> list[Step]:
    """A random schedule of 5 to 40 steps, the same for the same seed; usually all is delivered at its beginning."""
    random = Random(seed)
    steps: list[Step] = []
    if random.random() < 0.7:
        steps = [("deliver", 0, at) for at in (1, 2, 3, 4)] + [("deliver", 2, at) for at in (1, 2)]
        random.shuffle(steps)
    names = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=random.randint(5, 40))
    return steps + [(name, random.randrange(64), random.randrange(64)) for name in names]


def played(steps: Sequence[Step], rules: Rules = PRODUCT, traced: bool = False) -> tuple[Model, list[str]]:
    """The world after a schedule and what followed from it, and what is wrong in it."""
    model = Model(rules, traced)
    try:
        for step in steps:
            model.take(step)
        model.settle()
    except Violation as violation:
        return model, [str(violation)]
    return model, model.complaints()


def shrunk(steps: Sequence[Step], rules: Rules = PRODUCT) -> list[Step]:
    """A shortest part of a schedule, in the same order, after which something is still wrong."""
    left = list(steps)
    at = 0
    while at < len(left):
        fewer = left[:at] + left[at + 1 :]
        if played(fewer, rules)[1]:
            left, at = fewer, 0
        else:
            at += 1
    return left
