"""The gate: the refusal of a step when an upstream pair that it needs may not be built upon.

Belongs here: saying what is wrong. Not here: what is required of whom (`asset_graph/`), the states (`states.py`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from platform_assets.asset_graph.graph import Graph, Node, named
from platform_assets.asset_graph.requirements import BoolArray
from platform_assets.partition_checker.states import AssetStates, PairState

_PAIRS_SHOWN = 20


class NotVerified(RuntimeError):
    """Upstream pairs that are needed may not be built upon; `pairs` holds them with their states."""

    def __init__(self, wanted: Sequence[str], pairs: Sequence[PairState]) -> None:
        self.pairs = tuple(pairs)
        super().__init__(_refusal(wanted, pairs))


def refuse_unless_verified(
    graph: Graph, requested: Mapping[str, BoolArray], needed: Mapping[str, BoolArray], judged: Mapping[str, AssetStates]
) -> None:
    """Let the asked pairs pass if every needed one is verified, or absent and they declare to go on without it.

    Raises:
        NotVerified: names each pair that is not.
    """
    wrong = [
        pair
        for name, pairs in needed.items()
        for pair in judged[name].pairs(pairs & ~judged[name].verified & ~_absent(judged[name], graph, requested))
    ]
    if wrong:
        raise NotVerified(list(requested), wrong)


def _absent(judged: AssetStates, graph: Graph, requested: Mapping[str, BoolArray]) -> BoolArray:
    """The pairs that are not there, if all who ask for them go on without a late one."""
    if not _all_go_on(graph, requested, judged.facts.asset):
        return np.zeros_like(judged.verified)
    return ~judged.facts.recorded & ~judged.facts.is_stored


def _all_go_on(graph: Graph, requested: Mapping[str, BoolArray], upstream: str) -> bool:
    def reads(node: Node) -> bool:
        return graph.named[upstream].key in node.deps

    readers = [graph.named[name] for name in requested if reads(graph.named[name])]
    return all(node.completeness.goes_on_without_late(upstream) for node in readers)


def _refusal(wanted: Sequence[str], pairs: Sequence[PairState]) -> str:
    lines = [f"{named(pair.asset, pair.partition)} is {pair.state}: {pair.reason}" for pair in pairs[:_PAIRS_SHOWN]]
    if len(pairs) > _PAIRS_SHOWN:
        lines.append(f"and {len(pairs) - _PAIRS_SHOWN} more: headwater check lists them")
    return "\n".join(
        [
            f"refused to build {', '.join(wanted)}: {len(pairs)} of the upstream pairs needed "
            f"{'is' if len(pairs) == 1 else 'are'} not verified. Nothing was changed.",
            *lines,
            "To heal: headwater plan --unhealthy -o plan.json, then headwater recover plan.json. "
            f"To see what led to it: headwater explain {named(pairs[0].asset, pairs[0].partition)}",
        ]
    )
