"""`headwater prepare`, `headwater up` and `headwater move`: a home, and Dagster's processes on it.

Belongs here: arguments and printing. Not here: what they do (`services.py`, `resources/moving.py`).
"""

import click

from platform_assets.asset_graph.locations import loaded
from platform_assets.instance import services
from resources import moving
from resources.environment import Environment


@click.command()
def prepare() -> None:
    """Create what is missing of the state, and see that every code location loads."""
    environment = Environment.current()
    services.prepare(environment)
    loaded()
    click.echo(f"ready: {environment.home}")


@click.command()
def up() -> None:
    """Run the web UI with sensors and automation on, until Ctrl-C."""
    environment = Environment.current()
    with services.running(environment, environment.port) as running:
        click.echo(f"Headwater is up at {running.url} (logs in {environment.home / 'logs'}). Ctrl-C stops it.")
        running.wait()


@click.command()
@click.option("--copy", "is_copy", is_flag=True, help="The original goes on too; this becomes a home of its own.")
def move(is_copy: bool) -> None:
    """Make a home that was moved, copied or restored readable where it is now, with the environments under it.

    Lake, receipts, models and settings name files by their place. Run again, it changes nothing.
    """
    environment = Environment.current()
    names = [environment.name]
    if environment.name == "prod":
        names += moving.environments_of(environment.home)
    for name in names:
        # Environments under a home have no place by name, which only prod's settings may give.
        mine = environment if name == environment.name else _under(environment, name)
        home = moving.move(mine, is_copy)
        services.prepare(mine)
        click.echo(f"ready: {home.words}")


def _under(environment: Environment, name: str) -> Environment:
    return Environment.of({"HEADWATER_HOME": str(environment.home), "HEADWATER_ENV": name})
