"""The console command `headwater`: one more door to the graph.

Belongs here: arguments, exit codes, printing. Not here: what the commands do.
"""

import ast
import os
import signal
import sys
import warnings
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from resources.environment import Environment, SettingError

# Dagster marks partition mappings and single-run backfills as beta; the release is pinned and the tests drive them.
warnings.filterwarnings("ignore", message="Parameter `")

COMMANDS = "headwater.commands"
"""The group of entry points that are commands: whoever builds upon this package adds some by its own."""


class _Commands(click.Group):
    """The commands that installed packages name, imported when they are used: orchestrator and engine take seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_places())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _places().get(cmd_name)
        if place is None:
            return None
        command = place.load()
        assert isinstance(command, click.Command), f"{place.value} is no command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what their functions say of themselves, read without importing any."""
        places = _places()
        width = formatter.width - 6 - max(map(len, places))
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, click.Command(name, help=_said(place)).get_short_help_str(width))
                    for name, place in sorted(places.items())
                ]
            )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingError as error:
            if type(error) is SettingError:
                raise click.UsageError(str(error)) from error
            # The setting is well formed; what it names cannot be used as it is.
            raise click.ClickException(" ".join(str(error).split())) from error
        except Exception as error:
            # Whatever it is goes on: in a line where it is known what a person can do, else as it came.
            if isinstance(error, click.exceptions.Exit | click.ClickException | click.Abort):
                raise
            from platform_assets.failures import in_a_line

            if (said := in_a_line(error, Environment.current())) is None:
                raise
            raise click.ClickException(said) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Headwater: dbt models, features, models and forecasts as one asset graph."""
    from platform_assets.instance.parent import restore_interrupts
    from platform_assets.instance.privacy import PRIVATE, openness_of

    environment = Environment.current()
    os.environ.update(environment.variables)
    os.umask(PRIVATE)
    if said := openness_of(environment.home):
        click.echo(said, err=True)
    restore_interrupts()
    # A request to end unwinds like Ctrl-C, so that no service of ours is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _places() -> dict[str, EntryPoint]:
    """The commands by name.

    Raises:
        click.ClickException: two packages name one command.
    """
    found: dict[str, EntryPoint] = {}
    for place in entry_points(group=COMMANDS):
        other = found.setdefault(place.name, place)
        if other.value != place.value:
            raise click.ClickException(f"command {place.name!r} is both {other.value} and {place.value}: remove one")
    return found


def _said(place: EntryPoint) -> str:
    """What the function of a command says of itself."""
    module = find_spec(place.module)
    tree = ast.parse(Path(module.origin).read_bytes()) if module and module.origin else ast.Module([], [])
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == place.attr]
    return (ast.get_docstring(functions[0]) or "") if functions else ""
