"""Dagster instances with our storages alone: nothing is prepared, compiled or run for them."""

from contextlib import AbstractContextManager

import dagster as dg

from platform_assets.instance.services import instance_settings
from resources.environment import Environment


def opened(environment: Environment) -> AbstractContextManager[dg.DagsterInstance]:
    """The instance of an environment."""
    settings = instance_settings(environment)
    used = ("run_storage", "event_log_storage", "schedule_storage")
    return dg.DagsterInstance.local_temp(str(environment.home), {name: settings[name] for name in used})
