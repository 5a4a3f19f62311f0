"""What every asset of the location has that does not state it itself; the SDK's assets do.

Belongs here: group, owner, automation and code version. Not here: which functions compute an asset.
"""

import dagster as dg

from ml_assets.demand.computed_by import COMPUTED_BY
from platform_assets.automation import when_upstream_complete
from platform_assets.code_version import code_version
from platform_assets.teams import team_of


def with_defaults(spec: dg.AssetSpec) -> dg.AssetSpec:
    """`spec` with its team's group and owner, automation, and the version of the functions that compute it."""
    team = team_of(spec.key.path[0])
    return spec.replace_attributes(
        group_name=team.name,
        owners=[team.owner],
        automation_condition=when_upstream_complete(spec),
        code_version=spec.code_version or code_version(*COMPUTED_BY[spec.key]),
    )
