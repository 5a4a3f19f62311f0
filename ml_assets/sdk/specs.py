"""What every asset of a project has, and its declaration in the form of which a code version can be told.

Belongs here: what is the same for each. Not here: which assets there are (`training_set_assets.py`, `fold_assets.py`,
`monitor_assets.py`).
"""

import re

import dagster as dg

from ml_assets.declaration_error import DeclarationError
from ml_assets.sdk.declarations import Query
from platform_assets.automation import when_upstream_complete
from platform_assets.teams import team_of

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def completed(spec: dg.AssetSpec, team: str, area: str, version: str) -> dg.AssetSpec:
    """`spec` in a team's `area` with what every asset has; the condition last, because it reads the spec."""
    owner = team_of(team)
    return spec.replace_attributes(
        group_name=owner.group(area),
        owners=[owner.owner],
        automation_condition=when_upstream_complete(spec),
        code_version=version,
    )


def plain_query(query: Query) -> list[object]:
    """A query and what it reads, as constants of a code version."""
    reads = sorted(query.reads.items())
    return [query.sql, [[name, one.table.to_user_string(), one.first, one.last] for name, one in reads]]


def settled(declared: object) -> str:
    """The `repr` of a trainer or feature source, which is part of the code version.

    Raises:
        DeclarationError: it holds an address, so that every process would see another version.
    """
    text = repr(declared)
    if _ADDRESS.search(text):
        raise DeclarationError(
            f"{type(declared).__name__} has the repr {text}, which differs from process to process; make it a frozen "
            "dataclass of plain data"
        )
    return text
