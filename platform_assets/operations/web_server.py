"""Dagster's own web server, able to read our automation conditions, which code servers send as their class and fields.

Dagster loads the instance's run launcher, which imports them too, only after the code locations. Belongs here: that
import. Everything else is `dagster-webserver`.
"""

from dagster_webserver.cli import cli

from platform_assets import lateness  # noqa: F401

if __name__ == "__main__":
    cli(auto_envvar_prefix="DAGSTER_WEBSERVER")
