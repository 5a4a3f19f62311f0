"""`headwater demo`: the main job on real data.

Belongs here: arguments, exit code and printing. Not here: what it does (`main_job.py`) and what it tells (`report.py`).
"""

import sys

import click
from rich.console import Console

from ml_assets.demo.extent import FULL, SHORT, ExtentError
from ml_assets.demo.main_job import DemoError, run_demo
from ml_assets.demo.report import REPORT, show, summarize
from platform_assets.asset_graph.published import workspace_graph
from platform_assets.progress import progress
from resources.environment import Environment


@click.command()
@click.option("--full", is_flag=True, help="The whole year instead of its first half; extends what is there.")
@click.option("--days", type=click.IntRange(min=0), help="New days left to automation; default: 1, with --full 2.")
@click.option("--seed", default=7, show_default=True, help="Seed of the synthetic reading log.")
@click.option("--scale", default=1.0, show_default=True, help="Scale of the synthetic reading log.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
def demo(full: bool, days: int | None, seed: int, scale: float, as_json: bool) -> None:
    """Run the main job on real data: history by backfills, then new days by automation alone."""
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
    report = summarize(environment, outcome, workspace_graph(environment.home))
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
