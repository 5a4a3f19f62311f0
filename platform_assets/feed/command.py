"""`headwater feed`: the command line of the feed.

Belongs here: arguments, progress and the table at the end. Not here: anything that delivers (`delivery.py`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from platform_assets.feed.delivery import SEED, SelectionError, deliver, select
from platform_assets.feed.incidents import INCIDENTS, WITH_COLUMN, IncidentError
from platform_assets.feed.landing import Delivery, DeliveryError, LandingBusyError
from platform_assets.progress import progress
from resources.environment import Environment, SettingError


@dataclass(frozen=True)
class SourceSummary:
    """What one feed did for one source; files, rows and bytes count the delivered and the unchanged."""

    source: str
    delivered: int
    unchanged: int
    withheld: int
    files: int
    rows: int
    bytes: int
    seconds: float


@click.command(
    epilog="Incidents: "
    + " ".join(f"{name}: {(incident.__doc__ or '').strip()}" for name, incident in INCIDENTS.items())
)
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--partitions", metavar="FIRST..LAST", help="Days or hours, both included; default: all.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of the synthetic sources.")
@click.option("--scale", default=1.0, show_default=True, help="Million reads a week of the synthetic sources.")
@click.option(
    "--incident",
    type=click.Choice(list(INCIDENTS)),
    help="What goes wrong with every partition of this feed.",
)
@click.option("--column", help=f"The column to which it happens ({', '.join(sorted(WITH_COLUMN))}).")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON list, and nothing else.")
def feed(
    sources: tuple[str, ...],
    partitions: str | None,
    seed: int,
    scale: float,
    incident: str | None,
    column: str | None,
    as_json: bool,
) -> None:
    """Play the upstream systems: deliver partitions of SOURCES into the landing zone.

    A SOURCE is a source such as commerce/transactions or a team such as webtoon; without any, everything is
    delivered. What is already there with the same content stays untouched.
    """
    try:
        environment = Environment.current()
        selection = select(sources, partitions)
        with progress(quiet=as_json) as shown:
            tasks = {name: shown.add_task(name, total=len(keys)) for name, keys in selection.items()}
            deliveries = deliver(
                environment.landing,
                selection,
                seed=seed,
                scale=scale,
                incident=incident,
                column=column,
                threads=environment.threads,
                memory=environment.memory,
                report=lambda delivery: shown.advance(tasks[delivery.source]),
            )
    except (SelectionError, IncidentError) as error:
        raise click.UsageError(str(error)) from error
    except (DeliveryError, LandingBusyError, SettingError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    summaries = summarize(deliveries)
    if as_json:
        click.echo(json.dumps([asdict(summary) for summary in summaries], indent=2))
    else:
        Console().print(_table(summaries, f"{environment.landing}"))


def summarize(deliveries: Sequence[Delivery]) -> list[SourceSummary]:
    """The deliveries of one feed by source, in the order in which the sources first occur."""
    by_source: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_source.setdefault(delivery.source, []).append(delivery)
    return [
        SourceSummary(
            source=name,
            delivered=sum(one.outcome == "delivered" for one in ones),
            unchanged=sum(one.outcome == "unchanged" for one in ones),
            withheld=sum(one.outcome == "withheld" for one in ones),
            files=sum(one.files for one in ones),
            rows=sum(one.rows for one in ones),
            bytes=sum(one.bytes for one in ones),
            seconds=round(sum(one.seconds for one in ones), 3),
        )
        for name, ones in by_source.items()
    ]


def _table(summaries: Sequence[SourceSummary], landing: str) -> Table:
    table = Table(title=f"Delivered into {landing}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("source", no_wrap=True)
    for heading in ("delivered", "unchanged", "files", "rows", "size", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in summaries:
        counts = (one.delivered, one.unchanged, one.files, one.rows)
        table.add_row(one.source, *(f"{n:,}" for n in counts), decimal(one.bytes), f"{one.seconds:.1f}")
    withheld = sum(one.withheld for one in summaries)
    table.caption = f"{withheld:,} partitions withheld by the incident" if withheld else None
    return table
