"""The gate: which upstream pairs a step needs, and the refusal when one of them may not be built upon.

Belongs here: what is required of whom, and saying what is wrong. Not here: the states themselves (`states.py`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from platform_assets.operations.graph import UNPARTITIONED, Graph, Node
from platform_assets.partition_checker.requirements import BoolArray
from platform_assets.partition_checker.states import Judged, PairState

_PAIRS_SHOWN = 20


class NotVerified(RuntimeError):
    """Upstream pairs that are needed may not be built upon; `pairs` holds them with their states."""

    def __init__(self, wanted: Sequence[str], pairs: Sequence[PairState]) -> None:
        self.pairs = tuple(pairs)
        super().__init__(_refusal(wanted, pairs))


def required(graph: Graph, asked: Mapping[str, BoolArray]) -> dict[str, BoolArray]:
    """The upstream pairs that the asked ones cannot be built without and that are not among them, by asset.

    What an upstream system delivers is not among them: the asset that loads it inspects the delivery itself.
    """
    found: dict[str, BoolArray] = {}
    for name, pairs in asked.items():
        node = graph.named[name]
        for upstream, requirement in graph.requirements(node).items():
            if graph.named[upstream].location is None or not node.completeness.needs(upstream):
                continue
            needed = requirement.needed(pairs)
            if upstream in asked:
                needed = needed & ~asked[upstream]
            found[upstream] = found.get(upstream, np.zeros_like(needed)) | needed
    return {name: pairs for name, pairs in found.items() if pairs.any()}


def refuse_unless_verified(
    graph: Graph, asked: Mapping[str, BoolArray], needed: Mapping[str, BoolArray], judged: Mapping[str, Judged]
) -> None:
    """Let the asked pairs pass if every needed one is verified, or absent and they declare to go on without it.

    Raises:
        NotVerified: names each pair that is not.
    """
    wrong = [
        pair
        for name, pairs in needed.items()
        for pair in judged[name].pairs(pairs & ~judged[name].verified & ~_absent(judged[name], graph, asked))
    ]
    if wrong:
        raise NotVerified(list(asked), wrong)


def named(asset: str, partition: str) -> str:
    """A pair as people read it: team/entity@partition, without the @ where the asset has no partitions."""
    return f"{asset}@{partition}" if partition != UNPARTITIONED else asset


def _absent(judged: Judged, graph: Graph, asked: Mapping[str, BoolArray]) -> BoolArray:
    """The pairs that are not there, if all who ask for them go on without a late one."""
    if not _all_go_on(graph, asked, judged.facts.asset):
        return np.zeros_like(judged.verified)
    return ~judged.facts.recorded & ~judged.facts.is_stored


def _all_go_on(graph: Graph, asked: Mapping[str, BoolArray], upstream: str) -> bool:
    def reads(node: Node) -> bool:
        return graph.named[upstream].key in node.deps

    readers = [graph.named[name] for name in asked if reads(graph.named[name])]
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
