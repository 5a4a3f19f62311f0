"""Dagster's web server behind our guard, on a socket that is bound already.

Belongs here: serving Dagster's application, and the one thing that it answers too freely by itself. Not here: who may
ask (`origin_guard.py`).

It can read our automation conditions, which code servers send as their class and fields: Dagster loads the instance's
run launcher, which imports them too, only after the code locations.
"""

import logging
import socket
from pathlib import Path

import click
import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from platform_assets import automation  # noqa: F401
from platform_assets.instance.origin_guard import OriginGuard
from resources.environment import Environment

_POLL_MILLISECONDS = 2000
_STATEMENT_MILLISECONDS = 15_000
_POOL_RECYCLE_SECONDS = 3600
_POOL_OVERFLOW = 20
_GOODBYE_SECONDS = 5


class Webserver(DagsterWebserver):  # type: ignore[type-arg]
    """Dagster's application, in which a GET never executes a query: a mutation would be executed just so."""

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Answer a GraphQL request; see `GraphQLServer`."""
        if request.method != "POST" and "text/html" not in request.headers.get("Accept", ""):
            return PlainTextResponse(
                "Refused: a GraphQL request is a POST with Content-Type: application/json.\n", status_code=405
            )
        answer: Response = await super().graphql_http_endpoint(request)
        return answer


def guarded(context: WorkspaceProcessContext, port: int, origins: tuple[str, ...]) -> OriginGuard:
    """The application that is served for `context` on `port` of the loopback, and under `origins`."""
    application = Webserver(context, live_data_poll_rate=_POLL_MILLISECONDS).create_asgi_app()
    return OriginGuard(application, port, origins, setting="HEADWATER_WEB_ORIGINS")


@click.command()
@click.option("--workspace", required=True, type=click.Path(path_type=Path), help="File that names the code servers.")
@click.option("--listener", required=True, type=int, help="File descriptor of the bound socket.")
def main(workspace: Path, listener: int) -> None:
    """Serve until interrupted."""
    configure_loggers()
    setup_interrupt_handlers()
    with socket.socket(fileno=listener) as bound, dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _POOL_RECYCLE_SECONDS, _POOL_OVERFLOW)
        target = WorkspaceFileTarget([str(workspace)])
        with WorkspaceProcessContext(instance, target, version=__version__) as context:
            port = int(bound.getsockname()[1])
            application = guarded(context, port, Environment.current().web_origins)
            config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=_GOODBYE_SECONDS)
            logging.getLogger("dagster-webserver").info("Serving on port %s", port)
            uvicorn.Server(config).run([bound])


if __name__ == "__main__":
    main()
