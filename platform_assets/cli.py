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
    "check": "platform_assets.partition_checker.command:check",
    "explain": "platform_assets.recovery.command:explain",
    "feed": "platform_assets.feed.command:feed",
    "plan": "platform_assets.recovery.command:plan",
    "recover": "platform_assets.recovery.command:recover",
}
"""Commands that live beside what they do, imported when first used."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_FOREIGN])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _FOREIGN:
            return super().get_command(ctx, cmd_name)
        module, name = _FOREIGN[cmd_name].split(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingError as error:
            raise click.UsageError(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Headwater: dbt models, features, models and forecasts as one asset graph."""
    os.environ.update(Environment.current().variables)
    # A request to end unwinds like Ctrl-C, so that no service of ours is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@main.command()
def prepare() -> None:
    """Create what is missing of the state: instance settings, lake, dbt manifest."""
    from platform_assets.operations.services import prepare

    environment = Environment.current()
    prepare(environment)
    click.echo(f"ready: {environment.home}")


@main.command()
def up() -> None:
    """Run the web UI with sensors and automation on, until Ctrl-C."""
    from platform_assets.operations.services import ServiceError, running, wait_for_interrupt

    environment = Environment.current()
    try:
        with running(environment, environment.port) as client:
            click.echo(f"Headwater is up at {client.url} (logs in {environment.home / 'logs'}). Ctrl-C stops it.")
            wait_for_interrupt()
    except ServiceError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--days", default=2, show_default=True, type=click.IntRange(0, 21), help="New days left to automation.")
@click.option("--seed", default=7, show_default=True, help="Seed of the synthetic reading log.")
@click.option("--scale", default=1.0, show_default=True, help="Scale of the synthetic reading log.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
def demo(days: int, seed: int, scale: float, as_json: bool) -> None:
    """Run the main job on real data: history by backfills, then new days by automation alone."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    from platform_assets.operations.demo import DemoError, run_demo
    from platform_assets.operations.graph import Graph
    from platform_assets.operations.report import REPORT, show, summarize
    from platform_assets.operations.services import ServiceError

    environment = Environment.current()
    try:
        columns = (
            SpinnerColumn(),
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            outcome = run_demo(environment, progress, new_days=days, seed=seed, scale=scale)
    except (DemoError, ServiceError) as error:
        raise click.ClickException(str(error)) from error
    report = summarize(environment, outcome, Graph.of_workspace())
    path = environment.home / REPORT
    report.write(path)
    if as_json:
        click.echo(path.read_text(), nl=False)
    else:
        show(report, Console())
        click.echo(f"Report: {path}. Open the web UI on the same data with: make up")
    sys.exit(0 if report.succeeded else 1)
