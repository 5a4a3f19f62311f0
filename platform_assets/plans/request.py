"""What somebody wants planned, in one form for every door, and the plan for it.

Belongs here: joining the causes of a plan. Not here: what each cause comes to (`roots.py`), what depends on it
(`planning.py`), and how a door asks (`command.py`, `jobs.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from platform_assets.asset_graph.selections import pairs_named
from platform_assets.plans.plan import Plan
from platform_assets.plans.roots import PairStates, changed, code_roots, unhealthy
from resources.dbt import Dbt


@dataclass(frozen=True)
class PlanRequest:
    """Causes to plan for; several make one plan, in which a pair has the first of its reasons.

    Attributes:
        code_since: a git ref; pairs of dbt models whose query changed since then.
        heals: whether pairs that are not verified, and can be, are rebuilt.
        assets: assets or teams to heal; empty: all of them.
        partitions: heal these partitions only, as `A..B`.
        changed: pairs that changed, as `team/entity@A..B` each.
    """

    code_since: str | None = None
    heals: bool = False
    assets: Sequence[str] = ()
    partitions: str | None = None
    changed: Sequence[str] = ()


def plan_for(situation: PairStates, request: PlanRequest, dbt: Dbt) -> Plan:
    """The plan that `request` comes to, as every pair stands now.

    Raises:
        SelectionError: the request names an asset or partition that there is not.
        CodeChangesError, DbtError: the models at the git ref cannot be compared with today's.
    """
    roots: dict[str, dict[str, str]] = {}
    additive: list[str] = []
    if request.code_since is not None:
        # It reads SQL, by a library whose import takes longer than most plans.
        from platform_assets.plans.code_changes import changed_models

        changes = changed_models(request.code_since, dbt)
        _add(roots, code_roots(situation, changes))
        additive = [change.asset for change in changes if change.additive]
    if request.heals:
        _add(roots, unhealthy(situation, pairs_named(situation.graph, request.assets, request.partitions)))
    _add(roots, changed(situation.graph, request.changed))
    return situation.plan(roots, additive)


def _add(roots: dict[str, dict[str, str]], more: Mapping[str, Mapping[str, str]]) -> None:
    for asset, pairs in more.items():
        known = roots.setdefault(asset, {})
        known.update({key: reason for key, reason in pairs.items() if key not in known})
