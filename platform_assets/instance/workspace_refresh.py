"""The daemon takes a location's definitions anew when its code server has loaded them anew, not once a minute.

Dagster fetches every location's definitions each minute, to notice new ones: seconds of both cores on a slow machine,
after which the next look of automation builds the whole graph again. A code server says in a millisecond which load it
answers from. Belongs here: asking that. Not here: what is done with new definitions, which is Dagster's.
"""

import functools
from collections.abc import Callable
from typing import Any

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.workspace import CodeLocationEntry


def when_changed(
    refresh: Callable[[WorkspaceProcessContext], None],
) -> Callable[[WorkspaceProcessContext], None]:
    """`refresh` of a workspace, left out while every location is as its code server serves it."""

    @functools.wraps(refresh)
    def refreshed(context: WorkspaceProcessContext, *rest: Any) -> None:
        entries = context.get_current_workspace().code_location_entries.values()
        if not entries or not all(map(_is_current, entries)):
            refresh(context, *rest)

    return refreshed


def _is_current(entry: CodeLocationEntry) -> bool:
    location = entry.code_location
    if entry.load_error or not isinstance(location, GrpcServerCodeLocation):
        return False
    try:
        return location.client.get_server_id() == location.server_id
    except DagsterUserCodeUnreachableError:
        return False
