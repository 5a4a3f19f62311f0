"""Dagster's own daemon: shorter pauses between two looks at the backfills, no look in vain, warm workers.

Dagster 1.13 looks every 30 s and has no setting for it. A backfill through seven stages (raw, hourly, daily, weekly,
features, training, models) would wait more than three minutes for nothing but that pause. Nor does it look whether the
worker of a run that has not started yet lives: it waits for the whole time that a run may take to start. Belongs here:
both, when sensors look (`automation_looks.py`), when definitions are taken anew (`workspace_refresh.py`), and starting
what `run_launcher.py` forks workers from. Everything else is `dagster-daemon`.
"""

import logging

import dagster as dg
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon import controller
from dagster._daemon import sensor as sensors
from dagster._daemon.asset_daemon import AssetDaemon
from dagster._daemon.cli import main
from dagster._daemon.monitoring import run_monitoring

from platform_assets.instance.automation_looks import resting, when_due
from platform_assets.instance.run_launcher import WarmRunLauncher, warm_up
from platform_assets.instance.workspace_refresh import when_changed

PAUSE_SECONDS = 5

_wait_for_start = run_monitoring.monitor_starting_run


def monitor_starting_run(instance: dg.DagsterInstance, run_record: RunRecord, logger: logging.Logger) -> None:
    """Fail a run that no process is left to start, so that it is launched again; wait for others as Dagster does."""
    run, launcher = run_record.dagster_run, instance.run_launcher
    launched_at = instance.get_run_stats(run.run_id).launch_time
    if isinstance(launcher, WarmRunLauncher) and launched_at and launcher.cannot_start(run.run_id, launched_at):
        now = instance.get_run_by_id(run.run_id)
        if now and now.status is dg.DagsterRunStatus.STARTING:
            instance.report_run_failed(
                now, "Its worker process was gone before the run began: killed, or out of memory"
            )
    else:
        _wait_for_start(instance, run_record, logger)


if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = PAUSE_SECONDS
    run_monitoring.monitor_starting_run = monitor_starting_run
    sensors._process_tick = resting(sensors._process_tick)
    AssetDaemon._process_auto_materialize_tick = when_due(  # type: ignore[method-assign]
        AssetDaemon._process_auto_materialize_tick
    )
    WorkspaceProcessContext.refresh_workspace = when_changed(  # type: ignore[assignment, method-assign]
        WorkspaceProcessContext.refresh_workspace
    )
    warm_up()
    main()
