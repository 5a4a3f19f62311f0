"""What one step is to compute, and the receipts it leaves: the early cut-off, and the way from computed to recorded.

Belongs here: everything that each asset does around computing, whatever computes it. Not here: judging pairs
(`states.py`), the gate before (`gate.py`), computing anything.

A step computes what it was asked for, except, in runs that say so, pairs of which everything they read is as their
receipt says: these are confirmed. A pair is recorded once its data are stored and judged: first its receipt, then the
event that the web UI shows. A worker killed in between leaves data that the next check calls unrecorded.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
from dagster._core.definitions.data_version import DataVersion
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata
from dagster._core.execution.plan.execute_step import (
    _build_data_version_tags,
    _get_code_version,
    _get_input_provenance_data,
)

from platform_assets.asset_graph.requirements import BoolArray, Requirement
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.states import Facts, inputs_changed, inputs_of, presence
from platform_assets.partition_checker.stored import Stored, holding_values, kept_in_table
from platform_assets.partitioned_checks import evaluations_again, newest_materializations, report_together
from resources.ledger import Input, Receipt, digest, mark_of, schema_columns
from resources.run_fence import refuse_given_up
from resources.warehouse import Commit, TableName

Metadata = Mapping[str, Mapping[str, Any]]
"""What to show of each partition besides its receipt."""

ERROR_CHARACTERS = 1000
"""How much is kept of why a pair was not built."""

_OF_THE_TABLE = ("dagster/column_schema", "dagster/column_lineage", "dagster/row_count")


class Build:
    """One step's pairs, from the gate to their receipts."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        inspector: Inspector,
        facts: Mapping[str, Facts],
        requested: Mapping[str, BoolArray],
        forced: Mapping[str, BoolArray],
    ) -> None:
        """Start with the facts of the asked pairs, and of those they read, as they are now.

        Args:
            context: of the step.
            inspector: of every asset, with the stores in which receipts, files and rows are.
            facts: of every asset that is asked for or read; those asked for are updated as pairs are recorded.
            requested: by asset in topological order, the pairs to build.
            forced: those of them to compute even if nothing they read has changed.
        """
        self.context = context
        graph = inspector.graph
        self._ledger, self.catalog = inspector.ledger, inspector.catalog
        self._nodes = {name: graph.named[name] for name in requested}
        self._requirements = {name: graph.requirements(node) for name, node in self._nodes.items()}
        self._facts, self._asked, self._forced = facts, requested, forced
        self._settled = {name: np.zeros_like(pairs) for name, pairs in requested.items()}
        self._given_up = {name: np.zeros_like(pairs) for name, pairs in requested.items()}
        self._confirmed: dict[str, dict[str, str]] = {}
        self._foreseen = {name: np.zeros_like(pairs) for name, pairs in requested.items()}

    def waves(self) -> Iterator[dict[dg.AssetKey, list[str]]]:
        """The pairs to compute, by asset in topological order, until all that was asked for is settled.

        Pairs come together with those of this step that they need. Where it depends on how an upstream pair of the
        same step turns out whether a pair has to be computed at all, it comes in a later wave. What need not be
        computed is confirmed on the way. Each wave must be recorded, or given up, before the next is asked for.

        Raises:
            RuntimeError: a wave was not recorded as a whole.
        """
        before: dict[str, BoolArray] = {}
        while ready := self._next():
            if all(name in before and (before[name] == pairs).all() for name, pairs in ready.items()):
                raise RuntimeError(f"{', '.join(ready)}: what was to be computed was not recorded")
            before = ready
            wave = {self._nodes[name].key: self._keys(name, pairs) for name, pairs in ready.items()}
            self._begin(wave)
            yield wave

    def wants(self, key: dg.AssetKey, partition: str) -> bool:
        """Whether a pair is to be computed, now that those of this step that it needs are settled.

        False also when it was not asked for. One that need not be computed is confirmed.
        """
        name = "/".join(key.path)
        one = np.zeros(len(self._facts[name].partitions) if name in self._asked else 0, np.bool_)
        if not len(one):
            return False
        one[self._facts[name].place[partition]] = True
        certain, unchanged = self._sorted_out(name)
        if (one & unchanged).any():
            self._confirm(name, one)
        if not (one & certain).any():
            return False
        self._begin({key: [partition]})
        return True

    def give_up(self, key: dg.AssetKey, partitions: Iterable[str]) -> None:
        """Go on without pairs that could not be built or were judged bad, nor those of this step that need them.

        They keep no one else waiting: `waves` yields what is left. The step must fail in the end.
        """
        facts = self._facts["/".join(key.path)]
        self._given_up[facts.asset][[facts.place[partition] for partition in partitions]] = True

    def refuse(self, key: dg.AssetKey, reasons: Mapping[str, str]) -> None:
        """Keep why single pairs are not recorded, by partition; the step must fail in the end."""
        short = {partition: reason[:ERROR_CHARACTERS] for partition, reason in reasons.items()}
        self._ledger.refused(self.context.run.run_id, "/".join(key.path), short)

    def report(self, evaluations: Sequence[dg.AssetCheckEvaluation]) -> None:
        """Store evaluations of checks in one transaction. None of them fails the step: its caller knows what does."""
        report_together(self.context.get_step_execution_context(), evaluations)

    def repeat_evaluations(self, checks: Iterable[dg.AssetCheckSpec]) -> dict[dg.AssetCheckKey, list[str]]:
        """Answer what was planned of the checks of confirmed pairs, as the runs did that left the confirmed receipts.

        Args:
            checks: those of them that the run has selected are answered.

        Returns:
            What is left to evaluate, by check: confirmed pairs of which their run did not evaluate it, because it is
            new, and all pairs of the run where it selected the check and not its asset.

        Raises:
            Failure: such a pair is not recorded.
        """
        selected = self.context.op_execution_context.selected_asset_check_keys
        repeated: list[dg.AssetCheckEvaluation] = []
        left: dict[dg.AssetCheckKey, list[str]] = {}
        of_asset: dict[str, list[dg.AssetCheckSpec]] = {}
        for check in checks:
            if check.key in selected:
                of_asset.setdefault("/".join(check.asset_key.path), []).append(check)
        for name, those in of_asset.items():
            if name not in self._asked:
                left |= {check.key: self._recorded_of_run(check) for check in those}
            elif runs := self._confirmed.get(name):
                for key, known in evaluations_again(self.context.instance, those, runs).items():
                    repeated.extend(known.values())
                    left[key] = [partition for partition in runs if partition not in known]
        self.report(repeated)
        return {key: partitions for key, partitions in left.items() if partitions}

    def _recorded_of_run(self, check: dg.AssetCheckSpec) -> list[str]:
        if check.partitions_def is None:
            return [""]
        partitions = list(self.context.partition_keys)
        recorded = self.context.instance.get_materialized_partitions(check.asset_key)
        if absent := [partition for partition in partitions if partition not in recorded]:
            raise dg.Failure(
                f"{check.name} cannot judge {check.asset_key.to_user_string()}@{absent[0]}"
                f"{f' and {len(absent) - 1} more' if absent[1:] else ''}: materialize it first",
                allow_retries=False,
            )
        return partitions

    def record(self, key: dg.AssetKey, kept: Mapping[str, Stored], metadata: Metadata | None = None) -> None:
        """Leave a receipt for each partition of `kept` ("" without partitions), then the events of the catalog."""
        name = "/".join(key.path)

        def receipt(partition: str) -> Receipt:
            return Receipt(
                asset=name,
                partition=partition,
                code_version=self._nodes[name].code_version or "",
                inputs=self._inputs(name, partition),
                environment=self._ledger.environment,
                run_id=self.context.run.run_id,
                **vars(kept[partition]),
            )

        self._settle(name, kept, receipt, metadata or {})

    def record_table(
        self,
        key: dg.AssetKey,
        partitions: Sequence[str],
        metadata: Metadata | None = None,
        new_columns_were_null: bool = False,
    ) -> None:
        """`record` what the lake now holds of a table.

        With `new_columns_were_null` the pairs were valid before the table gained a column, and readers may have read
        NULL in it: a pair that holds a value there is another one.
        """
        kept = kept_in_table(self.catalog, key, partitions)
        for partition, extended in self._extended(key, kept, new_columns_were_null).items():
            kept[partition] = replace(kept[partition], extends=extended)
        whole = sum(int(files.rows.sum()) for files in self.catalog.files([TableName.of_key(key)]).values())
        last = {"dagster/row_count": whole, **(metadata or {}).get(partitions[-1], {})}
        self.record(key, kept, {**(metadata or {}), partitions[-1]: last})

    def replace_table(
        self,
        key: dg.AssetKey,
        rows: Callable[[Sequence[str]], pa.Table | Callable[[duckdb.DuckDBPyConnection], duckdb.DuckDBPyRelation]],
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        """Compute what is to be computed of one table: each wave of partitions in one transaction, then `record` it.

        Args:
            key: of the step's only asset.
            rows: the rows of some partitions, or how a connection to the lake tells them.
            shown: what the catalog shows of the table as a whole.
        """
        commit = Commit(self.context.run.run_id, key.to_user_string())
        for wave in self.waves():
            partitions = wave[key]
            self.catalog.warehouse.replace_partitions(TableName.of_key(key), partitions, rows(partitions), commit)
            self.record_table(key, partitions, {partitions[-1]: shown or {}})

    def record_view(self, key: dg.AssetKey, partitions: Sequence[str], metadata: Metadata | None = None) -> None:
        """`record` pairs of a view, which holds nothing: its content is the content of what it reads."""
        name = "/".join(key.path)
        self.record(key, {partition: self._view(name, partition) for partition in partitions}, metadata)

    def delivered(self, key: dg.AssetKey, versions: Mapping[str, str]) -> None:
        """Say which data version of a delivery was read, by partition, whatever was recorded of it before."""
        name = "/".join(key.path)
        facts = self._facts[name]
        for partition, version in versions.items():
            at = facts.place[partition]
            facts.ids[at] = facts.contents[at] = version
            facts.marks[at] = mark_of(name, partition, version)
            facts.recorded[at] = True

    def outputs(self) -> Iterator[dg.MaterializeResult[None]]:
        """One output for each asset, which makes no event: its pairs are recorded already."""
        for node in self._nodes.values():
            yield dg.MaterializeResult(node.key, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})

    def _next(self) -> dict[str, BoolArray]:
        while True:
            confirmed = False
            self._give_up_readers()
            ready: dict[str, BoolArray] = {}
            for name in self._asked:
                certain, unchanged = self._sorted_out(name)
                if unchanged.any():
                    self._confirm(name, unchanged)
                    confirmed = True
                waiting = np.zeros_like(certain)
                for upstream, requirement in self._within(name):
                    if upstream != name:
                        comes = ready.get(upstream, np.zeros(requirement.upstream_count, np.bool_))
                        waiting |= requirement.affected(self._open(upstream) & ~comes)
                if (certain & ~waiting).any():
                    ready[name] = certain & ~waiting
                    self._foresee(name, ready[name])
            if ready or not confirmed:
                return ready

    def _give_up_readers(self) -> None:
        """Pairs that need one that was given up are given up too; one of a table may need an earlier one of it."""
        for name in self._asked:
            given_up = self._given_up[name]
            for upstream, requirement in self._within(name):
                before = None
                while before is None or (upstream == name and (before != given_up).any()):
                    before = given_up.copy()
                    given_up |= requirement.affected(self._given_up[upstream]) & self._open(name)

    def _sorted_out(self, name: str) -> tuple[BoolArray, BoolArray]:
        """Of the pairs that are still open: those to be computed for certain, and those that need not be."""
        facts, open_ = self._facts[name], self._open(name)
        undecided = np.zeros_like(open_)
        for upstream, requirement in self._within(name):
            undecided |= requirement.affected(self._open(upstream) & ~self._foreseen[upstream])
        intact = presence(facts).verified & (facts.same_code | facts.immutable)
        intact[list(facts.failed)] = False
        changed = inputs_changed(facts, self._facts, self._requirements[name]) & ~facts.immutable
        certain = open_ & (self._forced[name] | ~intact | (changed & ~undecided))
        return certain, open_ & ~certain & ~undecided

    def _foresee(self, name: str, pairs: BoolArray) -> None:
        """Of a view that is about to be built it is known what it will hold, so nobody behind it has to wait."""
        if self._nodes[name].completeness.storage != "view":
            return
        facts = self._facts[name]
        for partition in self._keys(name, pairs):
            at, kept = facts.place[partition], self._view(name, partition)
            facts.contents[at] = _content(kept)
            facts.marks[at] = mark_of(name, partition, facts.contents[at])
        self._foreseen[name] |= pairs

    def _view(self, name: str, partition: str) -> Stored:
        read = sorted((read.asset, read.partition, read.content) for read in self._inputs(name, partition))
        return Stored(None, digest("view", read))

    def _within(self, name: str) -> Iterator[tuple[str, Requirement]]:
        return ((upstream, need) for upstream, need in self._requirements[name].items() if upstream in self._asked)

    def _open(self, name: str) -> BoolArray:
        return self._asked[name] & ~self._settled[name] & ~self._given_up[name]

    def _keys(self, name: str, pairs: BoolArray) -> list[str]:
        keys = self._facts[name].partitions
        return [keys[at] for at in np.flatnonzero(pairs).tolist()]

    def _begin(self, wave: Mapping[dg.AssetKey, Sequence[str]]) -> None:
        """Note the attempts, after taking out files that cannot be read: these would keep their pairs as they are."""
        for key, partitions in wave.items():
            facts = self._facts["/".join(key.path)]
            damaged = [facts.damaged[at] for at in (facts.place[one] for one in partitions) if at in facts.damaged]
            if damaged and self._nodes[facts.asset].completeness.storage == "table":
                paths = [path for damage in damaged for path in damage.paths]
                commit = Commit(self.context.run.run_id, key.to_user_string())
                self.catalog.warehouse.forget_files(TableName.of_key(key), paths, commit)
        self._ledger.begin({"/".join(key.path): keys for key, keys in wave.items()}, self.context.run.run_id)

    def _confirm(self, name: str, pairs: BoolArray) -> None:
        """Record pairs again that need not be computed, with the receipts of what they would read now.

        An immutable pair of which code or inputs have changed keeps its receipt, which says what it was built from. So
        does one that another run has recorded since this one looked: its inputs are those that the other has read.
        """
        facts = self._facts[name]
        behind = inputs_changed(facts, self._facts, self._requirements[name]) | ~facts.same_code
        known = self._ledger.current(name, self._keys(name, pairs))
        overtaken = np.zeros_like(pairs)
        for receipt_now in known.values():
            at = facts.place[receipt_now.partition]
            if receipt_now.id != facts.ids[at]:
                self._take(facts, receipt_now)
                overtaken[at] = True
        self._settled[name] |= overtaken
        pairs = pairs & ~overtaken
        if not pairs.any():
            return

        def receipt(partition: str) -> Receipt:
            return replace(
                known[partition],
                inputs=self._inputs(name, partition),
                run_id=self.context.run.run_id,
                recorded_at=time.time(),
                reused=True,
            )

        left, confirmed = self._keys(name, pairs & behind), self._keys(name, pairs & ~behind)
        self._confirmed.setdefault(name, {}).update({key: known[key].run_id for key in (*left, *confirmed)})
        shown = self._shown_before(name, [known[key] for key in (*left, *confirmed)])
        if left:
            self._settled[name] |= pairs & behind
            why = {"computed": "no: it is immutable"}
            self._show(name, [known[key] for key in left], {key: {**shown[key], **why} for key in left})
        if confirmed:
            self._settle(name, confirmed, receipt, shown)

    def _shown_before(self, name: str, receipts: Sequence[Receipt]) -> dict[str, dict[str, Any]]:
        """What the catalog shows of pairs besides their receipts, as their plots: it takes that from the last event.

        The last pair is also given what is shown of the table as a whole, which comes from the last event of any.
        """
        instance, key = self.context.instance, self._nodes[name].key
        partitions = [receipt.partition for receipt in receipts]
        found = {
            record.partition_key or "": record.asset_materialization.metadata
            for record in newest_materializations(instance, key, partitions if any(partitions) else None)
            if record.asset_materialization
        }
        shown: dict[str, dict[str, Any]] = {}
        for receipt in receipts:
            told = {*receipt_metadata(receipt), *_OF_THE_TABLE}
            before = found.get(receipt.partition, {})
            shown[receipt.partition] = {entry: value for entry, value in before.items() if entry not in told}
        event = instance.get_latest_materialization_event(key)
        last = event.asset_materialization.metadata if event and event.asset_materialization else {}
        shown[partitions[-1]] |= {entry: last[entry] for entry in _OF_THE_TABLE if entry in last}
        return shown

    def _inputs(self, name: str, partition: str) -> tuple[Input, ...]:
        return inputs_of(self._facts, self._requirements[name], name, partition)

    def _extended(self, key: dg.AssetKey, kept: Mapping[str, Stored], new_columns_were_null: bool) -> dict[str, str]:
        """The content that readers go on to compare, of pairs to which the table has only gained columns since."""
        name = "/".join(key.path)
        facts = self._facts[name]
        recorded = [partition for partition in kept if facts.recorded[facts.place[partition]]]
        found: dict[str, str] = {}
        fewer: dict[tuple[str, ...], dict[str, Receipt]] = {}
        for partition, receipt in self._ledger.current(name, recorded).items() if recorded else ():
            now = kept[partition]
            columns, more = schema_columns(receipt.schema), schema_columns(now.schema)
            if receipt.content == _content(now):
                found[partition] = receipt.read_as
            elif len(columns) < len(more) and columns.items() <= more.items():
                fewer.setdefault(tuple(columns), {})[partition] = receipt
        for names, older in fewer.items():
            before = kept_in_table(self.catalog, key, list(older), names)
            same = [at for at, one in older.items() if before[at].checksum == one.checksum]
            if same and new_columns_were_null:
                gained = schema_columns(kept[same[0]].schema).keys() - set(names)
                changed = holding_values(self.catalog, key, same, gained)
                same = [at for at in same if at not in changed]
            found |= {at: older[at].read_as for at in same}
        return {partition: extended for partition, extended in found.items() if extended != _content(kept[partition])}

    def _settle(
        self, name: str, partitions: Iterable[str], receipt: Callable[[str], Receipt], metadata: Metadata
    ) -> None:
        """Record the receipt of each partition; an earlier one is settled first, because a later one may read it."""
        facts = self._facts[name]
        receipts = []
        for at in sorted(facts.place[partition] for partition in partitions):
            left = receipt(facts.partitions[at])
            self._take(facts, left)
            self._settled[name][at] = True
            receipts.append(left)
        refuse_given_up(self.catalog.warehouse.run_events, self.context.run.run_id)
        self._ledger.record(receipts)
        self._show(name, receipts, metadata)

    def _take(self, facts: Facts, receipt: Receipt) -> None:
        """Go by `receipt` from now on, for those that read the pair too."""
        at = facts.place[receipt.partition]
        facts.ids[at], facts.contents[at] = receipt.id, receipt.read_as
        facts.marks[at] = mark_of(receipt.asset, receipt.partition, receipt.read_as)
        facts.recorded[at] = True

    def _show(self, name: str, receipts: Sequence[Receipt], metadata: Metadata) -> None:
        """The materializations, as one batch: Dagster itself gives all partitions of an output one data version."""
        step, key = self.context.get_step_execution_context(), self._nodes[name].key
        step.wipe_input_asset_version_info(key)
        inputs = _get_input_provenance_data(key, step) if step.is_external_input_asset_version_info_loaded else {}
        batch = str(uuid.uuid4())
        for number, receipt in enumerate(receipts, start=1):
            files = {"files": self._ledger.names_of(receipt)} if receipt.files else {}
            event = dg.AssetMaterialization(
                key,
                partition=receipt.partition or None,
                metadata={**receipt_metadata(receipt), **files, **metadata.get(receipt.partition, {})},
                tags=_build_data_version_tags(DataVersion(receipt.id), _get_code_version(key, step), inputs, True),
            )
            is_last = number == len(receipts)
            DagsterEvent.asset_materialization(step, event, DagsterEventBatchMetadata(batch, is_last))


def _content(kept: Stored) -> str:
    return digest(kept.rows, kept.checksum, kept.schema)


def recorded_event(receipt: Receipt) -> dg.AssetMaterialization:
    """The event of a receipt that the event log has lost, as far as the receipt can tell."""
    return dg.AssetMaterialization(
        dg.AssetKey(receipt.asset.split("/")),
        partition=receipt.partition or None,
        metadata={**receipt_metadata(receipt), "recorded again": "from its receipt, the event log had lost it"},
        tags=_build_data_version_tags(DataVersion(receipt.id), receipt.code_version, {}, True),
    )


def receipt_metadata(receipt: Receipt) -> dict[str, Any]:
    """What the web UI shows of a receipt."""
    counted = "dagster/partition_row_count" if receipt.partition else "dagster/row_count"
    return {
        **({} if receipt.rows is None else {counted: receipt.rows}),
        "receipt": receipt.id,
        "checksum": receipt.checksum,
        "code version": receipt.code_version,
        "inputs read": len(receipt.inputs),
        "lake snapshot": receipt.snapshot or 0,
        "computed": "no: all that it reads is as it was" if receipt.reused else "yes",
    }
