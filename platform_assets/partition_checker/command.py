"""`headwater check`: the state of every pair, from receipts, the lake's catalog and files.

Belongs here: arguments, the table and the JSON, the exit code. Not here: judging (`states.py`), reading rows
(`deep.py`).
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from platform_assets.asset_graph.graph import named
from platform_assets.asset_graph.selections import SelectionError, pairs_named, runs_of_same
from platform_assets.instance.services import open_instance
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.deep import adopt, read_again
from platform_assets.partition_checker.facts import Inspector, Wanted
from platform_assets.partition_checker.orphans import Orphan, orphans
from platform_assets.partition_checker.states import PairState, State
from platform_assets.progress import progress
from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore

_SHOWN = 30


@click.command()
@click.argument("assets", metavar="[ASSET]...", nargs=-1)
@click.option("--partitions", metavar="A..B", help="Only these partitions, both included; a day holds all its hours.")
@click.option("--deep", is_flag=True, help="Also read the rows again and compare their checksums.")
@click.option("--adopt", "adopts", is_flag=True, help="Give stored pairs without a receipt one for what they hold now.")
@click.option("--json", "as_json", is_flag=True, help="Print every pair as a JSON list, and nothing else.")
def check(assets: tuple[str, ...], partitions: str | None, deep: bool, adopts: bool, as_json: bool) -> None:
    """Say of every pair of ASSETS whether it is there as it was recorded, built from what is there now.

    An ASSET is team/entity or a team; without any, every asset of every code location is checked. No data are read
    unless --deep asks for it. Exits with 0 if every pair is verified, else with 1.
    """
    environment = Environment.current()
    try:
        with open_instance(environment) as instance:
            # A deep check looks again at what one has found before, which may be mended since.
            inspector = replace(PartitionChecker.of(environment).inspector(instance), trusts_damages=not deep)
            wanted = pairs_named(inspector.graph, assets, partitions)
            if adopts:
                _adopt(inspector, wanted)
            pairs = _pairs(inspector, wanted)
            if deep:
                pairs = _deep(inspector, pairs, quiet=as_json)
            left = _orphans(inspector, environment, assets)
    except SelectionError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        plain = [_plain(pair) for some in pairs.values() for pair in some]
        click.echo(json.dumps([*plain, *map(_plain_orphan, left)]))
    else:
        _show(pairs, left, Console())
    sys.exit(0 if all(pair.state is State.VERIFIED for some in pairs.values() for pair in some) else 1)


def _orphans(inspector: Inspector, environment: Environment, assets: Sequence[str]) -> list[Orphan]:
    """The orphans of the teams that were asked for; of all, unless some were."""
    found = orphans(inspector, OnlineStore.of(environment).rows()) if all("/" not in name for name in assets) else []
    return [orphan for orphan in found if not assets or orphan.asset.partition("/")[0] in assets]


def _plain_orphan(orphan: Orphan) -> dict[str, object]:
    return {"asset": orphan.asset, "partition": None, "state": "orphaned", "rows": None, "reason": orphan.words}


def _pairs(inspector: Inspector, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[PairState]]:
    masks: Wanted = {
        name: np.isin(np.array(inspector.graph.named[name].pairs, object), np.array(keys, object))
        for name, keys in wanted.items()
    }
    judged = inspector.judged(masks)
    return {name: list(judged[name].pairs(masks[name])) for name in wanted}


def _deep(inspector: Inspector, pairs: Mapping[str, list[PairState]], quiet: bool) -> dict[str, list[PairState]]:
    with progress(quiet=quiet) as shown:
        task = shown.add_task("reading pairs", total=sum(map(len, pairs.values())))
        return {
            name: read_again(inspector, inspector.graph.named[name], some, lambda n: shown.advance(task, n))
            for name, some in pairs.items()
        }


def _adopt(inspector: Inspector, wanted: Mapping[str, Sequence[str]]) -> None:
    judged = inspector.judged(dict.fromkeys(wanted))
    adopted = adopt(inspector, judged, wanted, run_id="adopted")
    click.echo(f"adopted {len(adopted)} stored pairs that had no receipt", err=True)


def _plain(pair: PairState) -> dict[str, object]:
    return {
        "asset": pair.asset,
        "partition": pair.partition or None,
        "state": str(pair.state),
        "rows": pair.rows,
        "reason": pair.reason,
    }


def _show(pairs: Mapping[str, Sequence[PairState]], left: Sequence[Orphan], console: Console) -> None:
    states = [state for state in State if any(pair.state is state for some in pairs.values() for pair in some)]
    table = Table("asset", *map(str, states), box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, some in pairs.items():
        counts = Counter(pair.state for pair in some)
        table.add_row(name, *[f"{counts[state]:,}" if counts[state] else "" for state in states])
    console.print(table)
    wrong = [pair for some in pairs.values() for pair in some if pair.state is not State.VERIFIED]
    lines = list(runs_of_same((pair.asset, pair.partition, f"is {pair.state}: {pair.reason}") for pair in wrong))
    for asset, partitions, words, count in lines[:_SHOWN]:
        many = f" ({count:,} pairs)" if count > 1 else ""
        console.print(f"[bold]{named(asset, partitions)}[/]{many} {escape(words)}", soft_wrap=True)
    if len(lines) > _SHOWN:
        console.print(f"and {sum(line[3] for line in lines[_SHOWN:]):,} more pairs: --json lists every one")
    for orphan in left:
        console.print(f"[bold]{orphan.asset}[/] is orphaned: {escape(orphan.words)}", soft_wrap=True)
    if left:
        console.print("To remove what is orphaned: headwater forget ASSET")
    total = sum(map(len, pairs.values()))
    if wrong:
        console.print(f"{len(wrong):,} of {total:,} pairs are not verified. What led to one: headwater explain PAIR")
    else:
        console.print(f"All {total:,} pairs are verified.")
