"""`headwater forget`: what is stored of assets that no code location declares any more is removed.

Belongs here: arguments, the preview, printing. Not here: finding and removing (`orphans.py`).
"""

import json
from collections.abc import Mapping, Sequence

import click

from platform_assets.instance.services import open_instance
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.facts import Inspector
from platform_assets.partition_checker.orphans import Orphan, orphans
from platform_assets.partition_checker.orphans import forget as remove
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore


@click.command()
@click.argument("assets", metavar="ASSET...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Remove it; without, only say what would be removed.")
@click.option(
    "--history", "with_events", is_flag=True, help="Dagster's events of the asset too, which the web UI shows."
)
@click.option("--json", "as_json", is_flag=True, help="Print what is or would be removed as a JSON list.")
def forget(assets: tuple[str, ...], yes: bool, with_events: bool, as_json: bool) -> None:
    """Remove tables, receipts and online rows of ASSETS, which headwater check calls orphaned.

    An ASSET is team/entity, or a team that was removed: all that is left of it. An asset that a code location declares
    is refused. Older snapshots of the lake keep their files.
    """
    environment = Environment.current()
    with open_instance(environment) as instance:
        inspector = PartitionChecker.of(environment).inspector(instance)
        online = OnlineStore.of(environment).rows()
        found = _asked(inspector, orphans(inspector, online), assets)
        for orphan in found if yes else ():
            remove(inspector, online, orphan, with_events=with_events)
    if as_json:
        click.echo(json.dumps([{"asset": orphan.asset, "removed": yes, "stored": orphan.words} for orphan in found]))
        return
    for orphan in found:
        click.echo(f"{'removed' if yes else 'would remove'} {orphan.asset}: {orphan.words}")
    if not yes:
        click.echo("Nothing was removed: add --yes to do it.")


def _asked(inspector: Inspector, left: Sequence[Orphan], names: Sequence[str]) -> list[Orphan]:
    """The orphans that are named, by themselves or by their team.

    Raises:
        click.UsageError: a name is of something that is declared, or of nothing that is stored.
    """
    found: dict[str, Orphan] = {}
    for name in dict.fromkeys(names):
        if declared := _declared(inspector.graph.named, name):
            raise click.UsageError(f"{declared} is declared: it is no orphan. Delete its declaration first")
        those = [orphan for orphan in left if name in (orphan.asset, orphan.asset.partition("/")[0])]
        if not those:
            listed = ", ".join(orphan.asset for orphan in left) or "there are none"
            raise click.UsageError(f"nothing is stored of {name}; orphaned: {listed}")
        found |= {orphan.asset: orphan for orphan in those}
    return list(found.values())


def _declared(named: Mapping[str, object], name: str) -> str | None:
    """The first asset that is called `name` or belongs to a team of that name."""
    return next((asset for asset in named if name in (asset, asset.partition("/")[0])), None)
