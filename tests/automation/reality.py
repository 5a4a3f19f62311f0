"""Replays what happened in the model on a real Dagster instance, and compares every request of the real conditions.

Belongs here: writing what runs would have written into the event log. Not here: deciding what happens (`model.py`).
"""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData
from dagster._core.storage.tags import WILL_RETRY_TAG

from platform_assets.automation import when_upstream_complete
from platform_assets.instance.automation_looks import Looks, Seen
from platform_assets.partition_checker.evaluations import report, verified_check
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of, partitioned_check
from tests.automation.model import CANCELED, FAILURE, PASSED, SUCCESS, Model
from tests.automation.world import ASSETS, BUILT, SPECS, Pairs, bits

_JOB = "__ASSET_JOB"
_ENDS = {
    SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
    FAILURE: dg.DagsterEventType.RUN_FAILURE,
    CANCELED: dg.DagsterEventType.RUN_CANCELED,
}


class Differs(AssertionError):
    """Automation asked for other pairs than the model; the message says which, and after what."""


def definitions(condition: Any = when_upstream_complete) -> dg.Definitions:
    """The world as real assets; `condition` makes the automation condition of a spec."""
    checks = {asset: _check(asset) for asset in BUILT}

    @dg.multi_asset_check(
        specs=[*checks.values(), *(verified_check(SPECS[asset].key, SPECS[asset].partitions_def) for asset in BUILT)],
        can_subset=True,
    )
    def judging() -> Iterator[dg.AssetCheckEvaluation]:
        """Never run here; evaluations are replayed."""
        yield from ()

    return dg.Definitions(
        assets=[spec if ASSETS[number].delivered else _built(spec, condition) for number, spec in enumerate(SPECS)],
        asset_checks=[judging],
    )


def _built(spec: dg.AssetSpec, condition: Any) -> dg.AssetsDefinition:
    @dg.multi_asset(name=spec.key.path[-1], specs=[spec.replace_attributes(automation_condition=condition(spec))])
    def build() -> None:
        """Never run here; what runs do is replayed."""

    return build


def _check(asset: int) -> dg.AssetCheckSpec:
    spec = SPECS[asset]
    return partitioned_check("sound", spec.key, spec.partitions_def, "Its rows are sound.", blocking=True)


class Reality:
    """A Dagster instance that is brought to where the model is, event by event."""

    def __init__(self, instance: dg.DagsterInstance, defs: dg.Definitions) -> None:
        self.instance, self.defs = instance, defs
        self.cursor: Any = None

    def follow(self, model: Model) -> None:
        """Replay the trace of a model.

        Raises:
            Differs: at some look automation requests something else than the model did.
        """
        with _plain_interrupts():
            self._replay(model)

    def _replay(self, model: Model) -> None:
        looks = Looks()
        for number, (what, *told) in enumerate(model.trace or ()):
            seen = Seen.now(self.instance, {})
            if what == "leave out":
                assert not looks.is_due("automation", seen, 0.0), "a look was due that the model leaves out"
            elif what == "look":
                (expected,) = told
                assert looks.is_due("automation", seen, 0.0), "a look was left out"
                found = self.requested()
                looks.ended("automation", seen, 0.0, not found)
                if found != expected:
                    raise Differs(
                        f"the model requests {_shown(expected)}, Dagster {_shown(found)}, after\n"
                        + "\n".join(map(str, (model.trace or [])[: number + 1]))
                    )
            else:
                getattr(self, f"_{what}")(*told)

    def requested(self) -> dict[int, Pairs]:
        """What automation requests at this look."""
        found = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = found.cursor
        requested = {}
        for asset in BUILT:
            keys = found.get_requested_partitions(SPECS[asset].key)
            pairs = sum(1 << ASSETS[asset].keys.index(key or "") for key in keys)
            if pairs:
                requested[asset] = pairs
        return requested

    def _launch(self, run: int, jobs: tuple[tuple[int, Pairs], ...]) -> None:
        keys = frozenset(SPECS[asset].key for asset, _ in jobs)
        self.instance.add_run(
            dg.DagsterRun(_JOB, run_id=_id(run), status=dg.DagsterRunStatus.STARTING, asset_selection=keys)
        )
        for asset, pairs in jobs:
            key, calendar = SPECS[asset].key, SPECS[asset].partitions_def
            for pair in bits(pairs):
                planned = AssetMaterializationPlannedData(key, ASSETS[asset].keys[pair] or None)
                self._say(run, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, planned)
            keys_of = [ASSETS[asset].keys[pair] for pair in bits(pairs)]
            subset = calendar.subset_with_partition_keys(keys_of).to_serializable_subset() if calendar else None
            check = AssetCheckEvaluationPlanned(asset_key=key, check_name="sound", partitions_subset=subset)
            self._say(run, dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED, check)

    def _start(self, run: int) -> None:
        self._say(run, dg.DagsterEventType.RUN_START)

    def _end(self, run: int, status: str, again: bool) -> None:
        if again:
            self.instance.add_run_tags(_id(run), {WILL_RETRY_TAG: "true"})
        self._say(run, _ENDS[status])

    def _record(self, asset: int, pairs: Pairs, run: int) -> None:
        for pair in bits(pairs):
            event = dg.AssetMaterialization(SPECS[asset].key, partition=ASSETS[asset].keys[pair] or None)
            if ASSETS[asset].delivered:
                self.instance.report_runless_asset_event(event)
            else:
                self._say(run, dg.DagsterEventType.ASSET_MATERIALIZATION, StepMaterializationData(event))

    def _evaluate(self, run: int, asset: int, pair: int, status: str) -> None:
        partition = ASSETS[asset].keys[pair] or None
        judged = evaluated_materializations(self.instance, SPECS[asset].key, [partition] if partition else None)
        evaluation = evaluation_of(
            judged, _check(asset), partition, passed=status == PASSED, description=None, metadata={}
        )
        self._say(run, dg.DagsterEventType.ASSET_CHECK_EVALUATION, evaluation)

    def _lose(self, asset: int, pair: int) -> None:
        spec = SPECS[asset]
        failing = {ASSETS[asset].keys[pair]: "lost: its file is gone"}
        self.lost = getattr(self, "lost", 0) + 1
        check = verified_check(spec.key, spec.partitions_def)
        report(self.instance, f"reconciliation-{self.lost}", check, failing, looked_at=failing.keys())

    def _say(self, run: int, kind: dg.DagsterEventType, data: Any = None) -> None:
        step = None if data is None else "step"
        event = DagsterEvent(kind.value, job_name=_JOB, event_specific_data=data, step_key=step, message="")
        self.instance.report_dagster_event(event, _id(run))


@contextmanager
def _plain_interrupts() -> Iterator[None]:
    """Ctrl-C as it is, but not by Python's default handler.

    With that one, `asyncio` writes out the result of every look before it throws the text away: half of its time.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _id(run: int) -> str:
    return f"run-{run}"


def _shown(requested: Mapping[int, Pairs]) -> str:
    return str(
        {ASSETS[asset].name: [ASSETS[asset].keys[at] for at in bits(found)] for asset, found in requested.items()}
    )
