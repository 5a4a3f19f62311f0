"""`headwater restore-ledger`: the way back when the receipts are lost or their file is damaged.

Belongs here: setting a damaged file aside, arguments, printing. Not here: which receipts are restored
(`restoring.py`).
"""

import time
from pathlib import Path

import click

from platform_assets.instance.services import open_instance
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partition_checker.restoring import restore
from platform_assets.progress import progress
from resources.database import damage_of
from resources.environment import Environment
from resources.home import refuse_in_use
from resources.sqlite_address import sqlite_path


@click.command("restore-ledger")
def restore_ledger() -> None:
    """Restore lost receipts, as far as lake and event log prove them; a damaged ledger is set aside first.

    Every row of every table is read for it. What is not restored is named by headwater check and built again by
    headwater plan --unhealthy.
    """
    environment = Environment.current()
    refuse_in_use(environment, "restore the receipts")
    file = sqlite_path(environment.ledger_uri)
    if file is not None and damage_of(file):
        click.echo(f"the damaged ledger is now {_set_aside(file)}")
    with open_instance(environment) as instance, progress() as shown:
        inspector = PartitionChecker.of(environment).inspector(instance)
        task = shown.add_task("assets", total=len(inspector.graph.built))
        done = restore(inspector, lambda: shown.advance(task))
    click.echo(f"restored {len(done.pairs):,} of {done.named:,} lost receipts. What is left: headwater check")


def _set_aside(file: Path) -> Path:
    """Give the file, and what SQLite keeps beside it, a name that nobody opens."""
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for end in ("-wal", "-shm", ""):
        beside = file.with_name(f"{file.name}{end}")
        if beside.exists():
            beside.rename(aside.with_name(f"{aside.name}{end}"))
    return aside
