"""Dagster's own daemon with a shorter pause between two looks at the backfills, and run workers kept warm.

Dagster 1.13 looks every 30 s and has no setting for it. A backfill through seven stages (raw, hourly, daily, weekly,
features, training, models) would wait more than three minutes for nothing but that pause. Belongs here: the pause,
and starting what `run_launcher.py` forks workers from. Everything else is `dagster-daemon`.
"""

from dagster._daemon import controller
from dagster._daemon.cli import main

from platform_assets.operations.run_launcher import warm_up

PAUSE_SECONDS = 5

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = PAUSE_SECONDS
    warm_up()
    main()
