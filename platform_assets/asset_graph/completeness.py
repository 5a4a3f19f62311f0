"""What an asset declares about being complete: what it may lack, how it is stored, what to do about a late upstream.

Belongs here: the declaration, and carrying it on an asset's spec. Not here: judging anything by it
(`partition_checker/`).
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import dagster as dg

Storage = Literal["table", "view", "files", "upstream"]
"""A table of the lake, a view of it, files that the receipts name, or with the upstream system that delivers it."""

LatePolicy = Literal["wait", "go_on", "alert"]
"""What a pair does whose upstream pair is late: wait; be built without it; wait, and say so by a failed check."""

METADATA = "partition checker"
"""The metadata entry of a spec that carries the declaration, which the web UI shows."""


@dataclass(frozen=True)
class Completeness:
    """What the Partition Checker is told about one asset.

    Attributes:
        storage: where its pairs are.
        may_be_empty: a pair without rows is as it should be.
        optional: upstream assets ("team/entity") without whose pairs it can be built.
        when_late: by upstream asset, what to do once a pair of it is late; wait, unless said otherwise.
        late_after_hours: how long after the end of its partition an upstream pair named in `when_late` is late.
        due_after_hours: how long after the end of its partition a pair is expected.
        immutable_before: pairs whose keys sort before this one are never rebuilt, and code changes leave them valid.
    """

    storage: Storage = "table"
    may_be_empty: bool = True
    optional: tuple[str, ...] = ()
    when_late: Mapping[str, LatePolicy] = field(default_factory=dict)
    late_after_hours: float = 6.0
    due_after_hours: float = 6.0
    immutable_before: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a policy, a storage or an asset's name.

        Raises:
            ValueError: names the entry and what is allowed.
        """
        if self.storage not in ("table", "view", "files", "upstream"):
            raise ValueError(f"storage is {self.storage!r}; allowed: table, view, files, upstream")
        for upstream, policy in self.when_late.items():
            if policy not in ("wait", "go_on", "alert"):
                raise ValueError(f"when_late of {upstream} is {policy!r}; allowed: wait, go_on, alert")
        for name in (*self.optional, *self.when_late):
            if not re.fullmatch(r"[^/]+/[^/]+", name):
                raise ValueError(f"{name!r} is no upstream asset: name it team/entity")

    def needs(self, upstream: str) -> bool:
        """Whether a pair cannot be built without the pairs of `upstream` that it reads."""
        return upstream not in self.optional

    def goes_on_without_late(self, upstream: str) -> bool:
        """Whether a pair is built without a pair of `upstream` that is late."""
        return self.when_late.get(upstream) == "go_on"

    @property
    def metadata(self) -> dict[str, Any]:
        """The entry for the metadata of a spec."""
        return {METADATA: dg.MetadataValue.json(asdict(self))}


def completeness_of(spec: dg.AssetSpec) -> Completeness:
    """What `spec` declares; the defaults where it declares nothing.

    Raises:
        ValueError: the declaration is not one; the message names the asset.
    """
    found = spec.metadata.get(METADATA)
    declared = getattr(found, "data", found) or {}
    try:
        return Completeness(**{**declared, "optional": tuple(declared.get("optional", ()))})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec.key.to_user_string()}: {error}") from error
