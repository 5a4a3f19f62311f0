"""A small world for the model of automation and for the real conditions: the same assets, calendars and mappings.

    src (delivered) -> days -> sums -> weeks -> months -> total
    plans (delivered) ---------------^
    notes (delivered, optional) -----^

`days` and `sums` have one calendar and run together; `sums` also reads the day before. Four days are in two weeks.
Belongs here: what both sides share. Not here: what happens in the world (`model.py`, `reality.py`).
"""

from dataclasses import dataclass
from functools import cached_property

import dagster as dg
import numpy as np

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.requirements import compile_requirement
from platform_assets.partitions import same_time

DAILY = dg.DailyPartitionsDefinition("2017-01-07", end_date="2017-01-11")
WEEKLY = dg.WeeklyPartitionsDefinition("2017-01-02", end_date="2017-01-16", day_offset=1)
MONTHLY = dg.MonthlyPartitionsDefinition("2017-01-01", end_date="2017-02-01")


def key_of(name: str) -> dg.AssetKey:
    """The key of the asset called so in this world."""
    return dg.AssetKey(["shop", name])


SPECS = (
    dg.AssetSpec(key_of("src"), partitions_def=DAILY),
    dg.AssetSpec(key_of("plans"), partitions_def=WEEKLY),
    dg.AssetSpec(key_of("notes"), partitions_def=WEEKLY),
    dg.AssetSpec(key_of("days"), deps=[key_of("src")], partitions_def=DAILY),
    dg.AssetSpec(
        key_of("sums"),
        deps=[dg.AssetDep(key_of("days"), partition_mapping=same_time(lookback=1))],
        partitions_def=DAILY,
    ),
    dg.AssetSpec(
        key_of("weeks"),
        deps=[dg.AssetDep(key_of("sums"), partition_mapping=same_time()), key_of("plans"), key_of("notes")],
        partitions_def=WEEKLY,
        metadata=Completeness(optional=("shop/notes",)).metadata,
    ),
    dg.AssetSpec(
        key_of("months"), deps=[dg.AssetDep(key_of("weeks"), partition_mapping=same_time())], partitions_def=MONTHLY
    ),
    dg.AssetSpec(key_of("total"), deps=[key_of("months")]),
)
DELIVERED = frozenset({"src", "plans", "notes"})

Pairs = int
"""Pairs of one asset as a bit mask, in the order of its partitions."""


@dataclass(frozen=True)
class Dep:
    """What an asset reads of another, by number.

    `down` holds for every mask of upstream pairs those that read any of them, `up` for each pair those that it reads.
    """

    upstream: int
    down: tuple[Pairs, ...]
    up: tuple[Pairs, ...]
    required: bool
    shares_runs: bool


@dataclass(frozen=True)
class Asset:
    """One asset of the world, with its pairs."""

    name: str
    keys: tuple[str, ...]
    calendar: str
    delivered: bool
    deps: tuple[Dep, ...]

    @cached_property
    def full(self) -> Pairs:
        """All its pairs."""
        return (1 << len(self.keys)) - 1


def _assets() -> tuple[Asset, ...]:
    places = {spec.key: number for number, spec in enumerate(SPECS)}
    found = []
    for spec in SPECS:
        keys = spec.partitions_def.get_partition_keys() if spec.partitions_def else [""]
        deps = []
        for dep in spec.deps:
            upstream = SPECS[places[dep.asset_key]]
            need = compile_requirement(spec.partitions_def, upstream.partitions_def, dep.partition_mapping)
            masks = np.arange(1 << need.upstream_count)[:, None] >> np.arange(need.upstream_count) & 1
            deps.append(
                Dep(
                    places[dep.asset_key],
                    tuple(_mask(need.affected(mask.astype(np.bool_)).nonzero()[0]) for mask in masks),
                    tuple(_mask(need.upstream_of(at)) for at in range(len(keys))),
                    dep.asset_key != key_of("notes"),
                    spec.partitions_def == upstream.partitions_def,
                )
            )
        name = spec.key.path[-1]
        found.append(Asset(name, tuple(keys), repr(spec.partitions_def), name in DELIVERED, tuple(deps)))
    return tuple(found)


def _mask(positions: object) -> Pairs:
    return sum(1 << int(at) for at in positions)  # type: ignore[attr-defined]


def bits(pairs: Pairs) -> list[int]:
    """The positions in a mask."""
    found = []
    while pairs:
        low = pairs & -pairs
        found.append(low.bit_length() - 1)
        pairs ^= low
    return found


ASSETS = _assets()
BUILT = tuple(number for number, asset in enumerate(ASSETS) if not asset.delivered)
NUMBER = {asset.name: number for number, asset in enumerate(ASSETS)}
