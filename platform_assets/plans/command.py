"""`headwater plan`, `headwater recover` and `headwater explain`: the command line of recovery.

Belongs here: arguments, tables, JSON and exit codes. Not here: anything that is shown (`roots.py`, `launching.py`,
`platform_assets/partition_checker/causes.py`).
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from platform_assets.asset_graph.graph import named
from platform_assets.asset_graph.selections import SelectionError, pair_named, runs_of_same
from platform_assets.instance.client import BackfillStatus
from platform_assets.instance.services import open_instance
from platform_assets.partition_checker.causes import Causes, Link
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.facts import Inspector
from platform_assets.plans.launching import REFUSALS, Launched, dagster_of, done_since, follow, launch
from platform_assets.plans.plan import Plan, PlanError, read_plan, to_json
from platform_assets.plans.request import PlanRequest, plan_for
from platform_assets.plans.roots import PairStates, unhealthy
from platform_assets.progress import progress
from resources.dbt import Dbt
from resources.environment import Environment

_LINES_SHOWN = 60


@click.command()
@click.argument("assets", metavar="[ASSET]...", nargs=-1)
@click.option("--changed", "redelivered", metavar="ASSET@A..B", multiple=True, help="Pairs that changed; repeatable.")
@click.option("--unhealthy", "heals", is_flag=True, help="Pairs of ASSETS that are not verified and can be.")
@click.option("--code", "ref", metavar="GIT_REF", help="Pairs of dbt models whose query changed since that ref.")
@click.option("--partitions", metavar="A..B", help="With --unhealthy: only these partitions.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Keep the plan in this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, and nothing else.")
def plan(
    assets: tuple[str, ...],
    redelivered: tuple[str, ...],
    heals: bool,
    ref: str | None,
    partitions: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say exactly which pairs would be rebuilt, why each, by which runs, and how long that takes. Nothing is launched.

    A pair behind one that comes out as it was is not computed: the plan names what may change.
    """
    if not (redelivered or heals or ref):
        raise click.UsageError("say what to plan for: --changed ASSET@A..B, --unhealthy, or --code GIT_REF")
    if not heals and (assets or partitions):
        given = " ".join(assets) or f"--partitions {partitions}"
        raise click.UsageError(f"{given} says what to heal: add --unhealthy, or leave it out")
    if output and not output.absolute().parent.is_dir():
        raise click.UsageError(f"-o {output}: there is no folder {output.absolute().parent}; create it first")
    with _inspecting() as inspector:
        situation = PairStates.now(inspector)
        request = PlanRequest(ref, heals, assets, partitions, redelivered)
        found = plan_for(situation, request, Dbt.of(Environment.current()))
        rows = situation.rows_at_stake(found)
    text = json.dumps({**to_json(found), "rows_at_stake": rows})
    if output:
        try:
            output.write_text(text + "\n")
        except OSError as error:
            raise click.ClickException(f"{output} cannot be written: {error.strerror}") from error
    if as_json:
        click.echo(text)
        return
    _show(found, rows, Console())
    if output:
        click.echo(f"Stored in {output}. To carry it out: headwater recover {output}")


@click.command()
@click.argument("plan_file", metavar="PLAN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--wait", is_flag=True, help="Wait until it has ended; runs a Dagster meanwhile if none does.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON, and nothing else.")
def recover(plan_file: Path, wait: bool, as_json: bool) -> None:
    """Carry out PLAN, a file of headwater plan, as a Dagster backfill; again, to retry exactly what failed.

    Exits with 0 when the plan was launched, is being carried out, or has nothing left to do; with --wait, when every
    pair of it is verified.
    """
    try:
        wanted = read_plan(plan_file)
    except PlanError as error:
        raise click.ClickException(str(error)) from error
    with _inspecting() as inspector, dagster_of(Environment.current(), may_start=wait) as client:
        launched = launch(wanted, inspector, client)
        status = None
        if wait and launched.backfill:
            with progress(quiet=as_json) as shown:
                task = shown.add_task("pairs", total=launched.pairs)
                status = follow(
                    launched.backfill,
                    client,
                    lambda now: shown.update(task, completed=now.materialized + now.failed, total=now.targeted),
                )
        done = done_since(wanted, inspector)
        left = [pair for pair in wanted.pairs if not done(pair.asset, pair.partition)] if wait else []
    _tell(launched, status, [named(pair.asset, pair.partition) for pair in left], as_json)
    sys.exit(1 if left else 0)


@click.command()
@click.argument("pair", metavar="ASSET@PARTITION")
@click.option("--json", "as_json", is_flag=True, help="Print the chain and the plan as JSON, and nothing else.")
def explain(pair: str, as_json: bool) -> None:
    """Say why a pair is as it is: the shortest chain of causes, and the plan that would mend the first of them."""
    with _inspecting() as inspector:
        node, partition = pair_named(inspector.graph, pair)
        chain = Causes(inspector).chain(node.name, partition)
        situation = PairStates.now(inspector)
        first = chain[-1]
        mends = situation.plan(unhealthy(situation, {first.asset: [first.partition]}))
    if as_json:
        links = [{"asset": link.asset, "partition": link.partition or None, "state": link.state} for link in chain]
        words = [{**plain, "words": link.words} for plain, link in zip(links, chain, strict=True)]
        click.echo(json.dumps({"chain": words, "plan": to_json(mends) if mends.pair_count else None}))
        return
    _narrate(chain, mends, Console())


@contextmanager
def _inspecting() -> Iterator[Inspector]:
    """The pairs of the current environment; whatever keeps us from it becomes a message."""
    environment = Environment.current()
    try:
        with open_instance(environment) as instance:
            yield PartitionChecker.of(environment).inspector(instance)
    except SelectionError as error:
        raise click.UsageError(str(error)) from error
    except REFUSALS as error:
        raise click.ClickException(str(error)) from error


def _show(found: Plan, rows: int, console: Console) -> None:
    if not found.pair_count:
        console.print("Nothing to rebuild.")
    else:
        table = Table(box=SIMPLE_HEAD)
        for title in ("asset", "partitions", "pairs"):
            table.add_column(title, no_wrap=True, justify="right" if title == "pairs" else "left")
        table.add_column("why", overflow="fold")
        lines = list(runs_of_same((pair.asset, pair.partition, pair.reason) for pair in found.pairs))
        for asset, partitions, words, count in lines[:_LINES_SHOWN]:
            table.add_row(asset, partitions, f"{count:,}", escape(words))
        console.print(table)
        if len(lines) > _LINES_SHOWN:
            console.print(f"and {sum(line[3] for line in lines[_LINES_SHOWN:]):,} more pairs: --json lists every one")
        runs = Table("run", "assets", "partitions", box=SIMPLE_HEAD)
        for number, run in enumerate(found.runs, start=1):
            span = run.first if run.first == run.last else f"{run.first}..{run.last}"
            runs.add_row(str(number), "\n".join(run.assets), span or "")
        console.print(runs)
        console.print(
            f"{found.pair_count:,} pairs of {len(found.selections)} assets in {len(found.runs):,} runs, "
            f"{rows:,} rows at stake. {_expected(found)}"
        )
        ends = ", ".join(f"{end.asset} ({end.pairs:,})" for end in found.end_points)
        console.print(f"Reaches: {ends or 'nothing that is declared a product'}.", soft_wrap=True)
    for asset, partitions, words, count in runs_of_same(
        (pair.asset, pair.partition, pair.reason) for pair in found.refused
    ):
        console.print(f"[yellow]refused[/] {named(asset, partitions)} ({count:,}): {escape(words)}", soft_wrap=True)


def _expected(found: Plan) -> str:
    if found.estimate is None:
        return "No run was timed yet, so there is no estimate."
    seconds = (found.estimate.seconds, found.estimate.low_seconds, found.estimate.high_seconds)
    expected, low, high = (str(timedelta(seconds=round(value))) for value in seconds)
    return f"About {expected} of runs, between {low} and {high} by past ones."


def _tell(launched: Launched, status: BackfillStatus | None, left: Sequence[str], as_json: bool) -> None:
    if as_json:
        said: dict[str, Any] = {
            "plan": launched.plan_id,
            "backfill": launched.backfill,
            "pairs": launched.pairs,
            "already_running": launched.already_running,
            "status": status and status.status,
            "not_verified": list(left),
        }
        click.echo(json.dumps(said))
        return
    if launched.backfill is None:
        click.echo(f"Plan {launched.plan_id}: nothing is left to do, every pair was rebuilt or confirmed.")
    elif launched.already_running:
        click.echo(f"Plan {launched.plan_id} is being carried out already by backfill {launched.backfill}.")
    else:
        click.echo(f"Plan {launched.plan_id}: {launched.pairs:,} pairs by backfill {launched.backfill}.")
    if status:
        click.echo(f"It ended as {status.status}: {status.materialized:,} of {status.targeted:,} pairs.")
    if left:
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        click.echo(f"Not verified yet: {shown}. See the failed runs, then recover again: only these are run.")


def _narrate(chain: Sequence[Link], mends: Plan, console: Console) -> None:
    for depth, link in enumerate(chain):
        lead = "" if depth == 0 else "  " * depth + "└ "
        console.print(f"{lead}[bold]{named(link.asset, link.partition)}[/] {escape(link.words)}", soft_wrap=True)
    if mends.pair_count:
        first = chain[-1]
        span = f" --partitions {first.partition}" if first.partition else ""
        console.print(
            f"To mend it: headwater plan {first.asset} --unhealthy{span} -o plan.json, then "
            f"headwater recover plan.json. That is {mends.pair_count:,} pairs in {len(mends.runs):,} runs. "
            f"{_expected(mends)}",
            soft_wrap=True,
        )
