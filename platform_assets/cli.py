"""The console command `headwater`: one more door to the graph.

Belongs here: arguments, exit codes, printing. Not here: what the commands do.
"""

import os
import signal
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from resources.environment import Environment, SettingError

# Dagster marks partition mappings and single-run backfills as beta; the release is pinned and the tests drive them.
warnings.filterwarnings("ignore", message="Parameter `")

_FOREIGN = {
    "check": (
        "platform_assets.partition_checker.command:check",
        "Say of every pair of ASSETS whether it is there as it was recorded, built from what is there now.",
    ),
    "explain": (
        "platform_assets.recovery.command:explain",
        "Say why a pair is as it is: the shortest chain of causes, and the plan that would mend the first of them.",
    ),
    "feed": (
        "platform_assets.feed.command:feed",
        "Play the upstream systems: deliver partitions of SOURCES into the landing zone.",
    ),
    "forget": (
        "platform_assets.partition_checker.orphans_command:forget",
        "Remove tables, receipts and online rows of ASSETS, which headwater check calls orphaned.",
    ),
    "move": (
        "platform_assets.operations.home_command:move",
        "Make a home that was moved, copied or restored readable where it is now, with the environments under it.",
    ),
    "plan": (
        "platform_assets.recovery.command:plan",
        "Say exactly which pairs would be rebuilt, why each, by which runs, and how long that takes.",
    ),
    "recover": (
        "platform_assets.recovery.command:recover",
        "Carry out PLAN, a file of headwater plan, as a Dagster backfill; again, to retry exactly what failed.",
    ),
    "restore-ledger": (
        "platform_assets.partition_checker.restore_command:restore_ledger",
        "Restore lost receipts, as far as lake and event log prove them; a damaged ledger is set aside first.",
    ),
}
"""Commands that live beside what they do, imported when first used; with what the list of commands says of each."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_FOREIGN])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _FOREIGN:
            return super().get_command(ctx, cmd_name)
        module, name = _FOREIGN[cmd_name][0].split(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any: orchestrator and engine take seconds."""
        width = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        own = {name: command.get_short_help_str(width) for name, command in self.commands.items()}
        foreign = {
            name: click.Command(name, help=said).get_short_help_str(width) for name, (_, said) in _FOREIGN.items()
        }
        with formatter.section("Commands"):
            formatter.write_dl(sorted((own | foreign).items()))

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
            from platform_assets.operations.failures import in_a_line

            if (said := in_a_line(error, Environment.current())) is None:
                raise
            raise click.ClickException(said) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Headwater: dbt models, features, models and forecasts as one asset graph."""
    from platform_assets.operations.parent import restore_interrupts
    from platform_assets.operations.privacy import PRIVATE, openness_of

    environment = Environment.current()
    os.environ.update(environment.variables)
    os.umask(PRIVATE)
    if said := openness_of(environment.home):
        click.echo(said, err=True)
    restore_interrupts()
    # A request to end unwinds like Ctrl-C, so that no service of ours is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@main.command()
def prepare() -> None:
    """Create what is missing of the state, and see that every code location loads."""
    from platform_assets.operations.locations import loaded
    from platform_assets.operations.services import prepare

    environment = Environment.current()
    prepare(environment)
    loaded()
    click.echo(f"ready: {environment.home}")


@main.command()
def up() -> None:
    """Run the web UI with sensors and automation on, until Ctrl-C."""
    from platform_assets.operations.services import running

    environment = Environment.current()
    with running(environment, environment.port) as services:
        click.echo(f"Headwater is up at {services.url} (logs in {environment.home / 'logs'}). Ctrl-C stops it.")
        services.wait()


@main.command()
@click.option("--full", is_flag=True, help="The whole year instead of its first half; extends what is there.")
@click.option("--days", type=click.IntRange(min=0), help="New days left to automation; default: 1, with --full 2.")
@click.option("--seed", default=7, show_default=True, help="Seed of the synthetic reading log.")
@click.option("--scale", default=1.0, show_default=True, help="Scale of the synthetic reading log.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
def demo(full: bool, days: int | None, seed: int, scale: float, as_json: bool) -> None:
    """Run the main job on real data: history by backfills, then new days by automation alone."""
    from rich.console import Console

    from platform_assets.operations.demo import DemoError, run_demo
    from platform_assets.operations.demo_extent import FULL, SHORT, ExtentError
    from platform_assets.operations.graph import Graph
    from platform_assets.operations.report import REPORT, show, summarize
    from platform_assets.progress import progress

    environment = Environment.current()
    extent = FULL if full else SHORT
    new_days = extent.new_days if days is None else days
    try:
        with progress() as shown:
            outcome = run_demo(environment, shown, extent, new_days=new_days, seed=seed, scale=scale)
    except ExtentError as error:
        raise click.UsageError(f"--days: {error}") from error
    except DemoError as error:
        raise click.ClickException(str(error)) from error
    report = summarize(environment, outcome, Graph.of_workspace())
    path = environment.home / REPORT
    report.write(path)
    if as_json:
        click.echo(path.read_text(), nl=False)
    else:
        show(report, Console())
        click.echo(f"Report: {path}. Open the web UI on the same data with: make up")
        if not full:
            click.echo(
                "This was half a year: freshness warns that the rest has not been delivered. To go on to the whole: "
                "make demo FULL=1"
            )
    sys.exit(0 if report.succeeded else 1)
