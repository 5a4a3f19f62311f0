"""How long it takes to plan a large recovery, and how much memory: `python -m tests.benchmarks.planning`."""

import random
import resource
import time
from datetime import UTC, datetime

import dagster as dg
import numpy as np

from platform_assets.asset_graph.requirements import Requirement, compile_requirement
from platform_assets.partitions import offset, same_time
from platform_assets.plans.plan import Plan
from platform_assets.plans.planning import PlannedAsset, make_plan

PARTITIONS = 1_000
LAYERS = 20
UPSTREAMS = 3
CHANGED = 0.01
DAYS = dg.DailyPartitionsDefinition("2015-01-01", end_date="2017-09-27")
MAPPINGS = [
    dg.TimeWindowPartitionMapping(),
    dg.TimeWindowPartitionMapping(),
    same_time(lookback=1),
    offset(-7, -1),
    dg.LastPartitionMapping(),
]


def layered_graph(count: int) -> list[PlannedAsset]:
    """`count` assets in layers, each reading some of the layer before by mixed mappings, one of them explicit.

    Each has a list of its keys of its own, as assets of a real graph have.
    """
    chance = random.Random(7)
    keys = DAYS.get_partition_keys()
    assert len(keys) == PARTITIONS
    every_other = Requirement.of([[at, at - 2] if at > 1 else [at] for at in range(PARTITIONS)], PARTITIONS)
    compiled = [*(compile_requirement(DAYS, DAYS, mapping) for mapping in MAPPINGS), every_other]
    width = count // LAYERS
    names = [[f"team/asset_{layer}_{at}" for at in range(width)] for layer in range(LAYERS)]
    return [
        PlannedAsset(
            key,
            list(keys),
            {upstream: chance.choice(compiled) for upstream in chance.sample(names[layer - 1], UPSTREAMS)}
            if layer
            else {},
            f"location_{chance.randrange(4)}" if layer else None,
            "2015-02-01" if layer == 1 else None,
            layer == LAYERS - 1,
        )
        for layer in range(LAYERS)
        for key in names[layer]
    ]


def random_roots(graph: list[PlannedAsset]) -> dict[str, dict[str, str]]:
    """One pair in a hundred."""
    generator = np.random.default_rng(7)
    roots = {}
    for asset in graph:
        hit = np.flatnonzero(generator.random(len(asset.partitions)) < CHANGED).tolist()
        roots[asset.key] = {asset.partitions[at]: "delivered again" for at in hit}
    return roots


def measure(count: int = 10_000) -> tuple[Plan, float]:
    """A plan for `count` assets, and the seconds it took."""
    graph = layered_graph(count)
    roots = random_roots(graph)
    began = time.perf_counter()
    plan = make_plan(graph, roots, environment="bench", created_at=datetime(2026, 1, 1, tzinfo=UTC))
    return plan, time.perf_counter() - began


def main() -> None:
    """Print the seconds and the peak memory."""
    plan, seconds = measure()
    began = time.perf_counter()
    identity = plan.id
    hashed = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    runs = sum(len(group.bounds) for group in plan.groups)
    took = f"{seconds:.2f} s, id {identity[:6]} in {hashed:.2f} s, peak {peak:.2f} GiB"
    print(f"{plan.pair_count:,} pairs, {runs:,} runs in {took}")


if __name__ == "__main__":
    main()
