"""What keeps every command from working, in one line: which setting or file it is, and what to do.

Belongs here: errors of the house itself, whatever was asked of it. Not here: refusals of one command's own, which that
command tells.
"""

import errno
from pathlib import Path

from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from platform_assets.asset_graph.locations import LocationError
from platform_assets.asset_graph.published import GraphError
from platform_assets.instance.client import DagsterRefused
from platform_assets.instance.services import ServiceError
from resources.database import place_of
from resources.dbt import DbtError
from resources.environment import Environment
from resources.feature_store.online_rows import OnlineStoreError
from resources.ledger import LedgerError
from resources.warehouse import LakeError

_OF_THE_HOME = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM,
    errno.EROFS,
}  # fmt: skip
_SAY_WHAT_TO_DO = (
    DagsterRefused, GraphError, LakeError, LedgerError, LocationError, OnlineStoreError, ServiceError,
)  # fmt: skip


def in_a_line(error: BaseException, environment: Environment) -> str | None:
    """What to tell a person of `error`; None when it is none of these, but a fault of ours."""
    if isinstance(error, DbtError):
        return _of_dbt(error, environment)
    if isinstance(error, _SAY_WHAT_TO_DO):
        return " ".join(str(error).split())
    if isinstance(error, DagsterPostgresException):
        place = place_of(environment.dagster_storage)
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        return (
            f"Dagster's storage {place} does not answer: {cause}. Check HEADWATER_DAGSTER_STORAGE, and that its server "
            "runs and has the database"
        )
    if isinstance(error, OperationalError) and environment.dagster_storage == "sqlite":
        cause = str(error.orig or error).strip().splitlines()[0]
        return f"a database below {environment.home} cannot be opened: {cause}. {_MAKE_WRITABLE}"
    if isinstance(error, OSError) and _is_of_the_home(error, environment):
        return f"{error.filename} cannot be written: {error.strerror}. {_MAKE_WRITABLE}"
    return None


_MAKE_WRITABLE = "Make HEADWATER_HOME writable, with space left, or set it to a folder that is"


def _is_of_the_home(error: OSError, environment: Environment) -> bool:
    if error.errno not in _OF_THE_HOME or not isinstance(error.filename, str):
        return False
    path = Path(error.filename)
    missing = error.errno == errno.ENOENT and environment.home.exists()
    return not missing and (path.is_relative_to(environment.home) or environment.home.is_relative_to(path))


def _of_dbt(error: DbtError, environment: Environment) -> str:
    """dbt's first words; the rest, which may be a traceback of many pages, is in its log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    end = next((at for at, line in enumerate(lines) if "Traceback (most recent call last)" in line), len(lines))
    return f"{' '.join(lines[:end])} (all that dbt said: {environment.dbt_target / 'dbt.log'})"
