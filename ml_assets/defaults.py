"""What every asset of the location has that does not state it itself; the SDK's assets do.

Belongs here: group, owner and automation. Not here: which functions compute an asset, and so its code version.
"""

import dagster as dg

from platform_assets.automation import when_upstream_complete
from platform_assets.teams import team_of


def with_defaults(spec: dg.AssetSpec) -> dg.AssetSpec:
    """`spec` with its team's group of features, its owner, and automation."""
    team = team_of(spec.key.path[0])
    return spec.replace_attributes(
        group_name=team.group("features"),
        owners=[team.owner],
        automation_condition=when_upstream_complete(spec),
    )
