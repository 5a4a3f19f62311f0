"""The Partition Checker as a resource: what every asset's step asks before, while and after it builds.

Belongs here: opening the stores, and a step's passage through the gate. Not here: what is asked of pairs at other
times (`reconcile.py`, `command.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg
import numpy as np
from pydantic import Field

from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.asset_graph.published import GraphError, workspace_graph
from platform_assets.asset_graph.requirements import BoolArray
from platform_assets.automation import CUT_OFF
from platform_assets.partition_checker.build import ERROR_CHARACTERS, Build
from platform_assets.partition_checker.deep import note_unreadable
from platform_assets.partition_checker.evaluations import WANTING, report, verified_check
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.gate import NotVerified, refuse_unless_verified
from platform_assets.partition_checker.states import Facts
from resources.environment import Environment
from resources.lake_catalog import LakeCatalog
from resources.ledger import Ledger
from resources.warehouse import Warehouse

PLAN = "headwater/plan"
"""Tag of the runs of a recovery: the id of its plan, whose roots are computed in any case."""


class PartitionChecker(dg.ConfigurableResource["PartitionChecker"]):
    """Knows of every pair of one environment, across code locations, whether it may be built upon."""

    settings: dict[str, str] = Field(description="The HEADWATER_* variables of the environment.")

    @classmethod
    def of(cls, environment: Environment) -> "PartitionChecker":
        """The Partition Checker of `environment`."""
        return cls(settings={k: v for k, v in environment.variables.items() if k.startswith("HEADWATER_")})

    def graph(self) -> Graph:
        """Every asset of every code location."""
        return workspace_graph(Environment.of(self.settings).home)

    def inspector(self, instance: dg.DagsterInstance) -> Inspector:
        """Looks at any pair, now."""
        environment = Environment.of(self.settings)
        return Inspector(self.graph(), Ledger.of(environment), LakeCatalog(Warehouse.of(environment)), instance)

    @contextmanager
    def building(self, context: dg.AssetExecutionContext) -> Iterator[Build]:
        """What the step of `context` is to compute, once the gate has let it pass.

        Raises:
            Failure: an upstream pair that the step needs is not verified, or the graph that would tell is not known;
                nothing was changed.
        """
        try:
            inspector = self.inspector(context.instance)
        except GraphError as error:
            raise dg.Failure(f"{error}. Nothing was changed.") from error
        inspector.catalog.warehouse.ensure()
        requested = _asked(context, inspector.graph)
        try:
            facts = admitted(inspector, requested)
        except NotVerified as refusal:
            _show(inspector, context.run.run_id, refusal)
            raise dg.Failure(str(refusal), allow_retries=False) from refusal
        forced = {
            name: pairs
            if _only_time_moves(inspector.graph.named[name])
            else _forced(inspector.ledger, context.run, facts[name], pairs)
            for name, pairs in requested.items()
        }
        build = Build(context, inspector, facts, requested, forced)
        try:
            yield build
        except BaseException as error:
            # Also of an interrupted step it is known why its pairs are not there.
            inspector.ledger.failed(context.run.run_id, _first_words(error), requested.keys())
            if isinstance(error, Exception):
                note_unreadable(inspector, requested)
            raise


def _only_time_moves(node: Node) -> bool:
    """Whether an asset has neither inputs nor partitions: it is asked for because time has passed."""
    return not node.deps and node.calendar is None


def _forced(ledger: Ledger, run: dg.DagsterRun, facts: Facts, pairs: BoolArray) -> BoolArray:
    """The pairs to compute even if nothing they read has changed: all, unless the run's tags leave it to us."""
    if CUT_OFF not in run.tags:
        return pairs
    forced = np.zeros_like(pairs)
    recovery = ledger.recovery(run.tags[PLAN]) if PLAN in run.tags else None
    if recovery is not None:
        forced[[facts.place[key] for key in recovery.roots.get(facts.asset, ()) if key in facts.place]] = True
        # Of a run that is repeated, or a plan that is launched again, what was rebuilt for it is not again.
        forced &= pairs & (facts.recorded_at < recovery.planned_at)
    return forced


def _asked(context: dg.AssetExecutionContext, graph: Graph) -> dict[str, BoolArray]:
    """The step's pairs, by asset in topological order."""
    selected = {"/".join(key.path) for key in context.selected_asset_keys}
    requested = {}
    for name, node in graph.named.items():
        if name in selected:
            keys = set(context.partition_keys) if node.calendar is not None else {""}
            requested[name] = np.array([key in keys for key in node.pairs], np.bool_)
    return requested


def admitted(inspector: Inspector, requested: Mapping[str, BoolArray]) -> dict[str, Facts]:
    """The facts of the asked pairs and of all they read, once the gate has let them pass.

    Raises:
        NotVerified: an upstream pair that one of them needs may not be built upon.
    """
    needed = inspector.graph.required(requested)
    wanted = {name: requested[name] | pairs if name in requested else pairs for name, pairs in needed.items()}
    wanted = {**requested, **wanted}
    facts = inspector.facts(wanted, inspector.read_by(wanted))
    refuse_unless_verified(inspector.graph, requested, needed, {name: inspector.judge(facts, name) for name in needed})
    return facts


def _show(inspector: Inspector, run_id: str, refusal: NotVerified) -> None:
    """Let the refused pairs fail the check on their own asset, where these are lost or damaged."""
    refused: dict[str, dict[str, str]] = {}
    for pair in refusal.pairs:
        if pair.state in WANTING:
            refused.setdefault(pair.asset, {})[pair.partition] = f"{pair.state}: {pair.reason}"
    for name, failing in refused.items():
        node = inspector.graph.named[name]
        report(inspector.instance, run_id, verified_check(node.key, node.calendar), failing, looked_at=failing.keys())


def _first_words(error: BaseException) -> str:
    text = getattr(error, "description", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:ERROR_CHARACTERS]
