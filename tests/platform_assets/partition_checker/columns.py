"""Facts about a few pairs, told pair by pair, as the columns that the Partition Checker judges."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from platform_assets.partition_checker.states import NONE, Damage, Facts
from resources.ledger import mark_of, sum_of

Read = tuple[str, str, str]
"""An input as a receipt names it: asset, partition, content."""


@dataclass(frozen=True)
class Known:
    """What is known of one pair: by default it is recorded, and stored as its receipt says.

    `rows` and `stored` are None where no rows are counted, or where nothing is stored.
    """

    content: str | None = "content"
    read: tuple[Read, ...] = ()
    rows: int | None = 3
    stored: int | None = 3
    is_stored: bool | None = None
    same_code: bool = True
    forged: bool = False
    rewritten: str | None = None
    damage: Damage | None = None
    failed: str | None = None
    due: bool = False
    immutable: bool = False
    recorded_at: float = 0.0

    @property
    def recorded(self) -> bool:
        """Whether there is a receipt, or a delivery."""
        return self.content is not None


NOTHING = Known(content=None, rows=None, stored=None)
"""A pair that was never built."""


def facts_of(asset: str, pairs: Mapping[str, Known], **declared: bool) -> Facts:
    """The facts of an asset's pairs, in their order."""
    known = list(pairs.values())
    marks = [mark_of(asset, key, one.content) if one.content is not None else (0, 0) for key, one in pairs.items()]
    return Facts(
        asset,
        list(pairs),
        recorded=_flags(one.recorded for one in known),
        ids=[f"id of {one.content}" if one.recorded else "" for one in known],
        contents=[one.content or "" for one in known],
        marks=_pairs_of_numbers(marks),
        inputs_marks=_pairs_of_numbers([sum_of(mark_of(*read) for read in one.read) for one in known]),
        same_code=_flags(one.same_code for one in known),
        forged=_flags(one.forged for one in known),
        rows=np.array([NONE if one.rows is None else one.rows for one in known], np.int64),
        recorded_at=np.array([one.recorded_at for one in known], np.float64),
        stored_rows=np.array([NONE if one.stored is None else one.stored for one in known], np.int64),
        is_stored=_flags(one.stored is not None if one.is_stored is None else one.is_stored for one in known),
        due=_flags(one.due for one in known),
        immutable=_flags(one.immutable for one in known),
        rewritten={at: one.rewritten for at, one in enumerate(known) if one.rewritten},
        damaged={at: one.damage for at, one in enumerate(known) if one.damage},
        failed={at: one.failed for at, one in enumerate(known) if one.failed},
        **declared,
    )


def _flags(values):  # type: ignore[no-untyped-def]
    return np.array(list(values), np.bool_)


def _pairs_of_numbers(marks: list[tuple[int, int]]):  # type: ignore[no-untyped-def]
    return np.array(marks, np.int64).reshape(-1, 2)
