"""`headwater move`: a home that was moved, copied or restored elsewhere becomes readable.

Belongs here: arguments and printing. Not here: what is rewritten (`resources/moving.py`).
"""

import click

from platform_assets.operations.services import prepare
from resources import moving
from resources.environment import Environment


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
        prepare(mine)
        click.echo(f"ready: {home.words}")


def _under(environment: Environment, name: str) -> Environment:
    return Environment.of({"HEADWATER_HOME": str(environment.home), "HEADWATER_ENV": name})
