"""Dagster's storages ask once what tables and columns their database has.

Dagster 1.13 also works with databases of before a migration, and asks for the columns of a table with every event that
it stores and every record that it reads: a third of what a small run takes. Belongs here: which questions have an
answer that stays. Not here: migrating, which only adds.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as db

_Storage = TypeVar("_Storage", bound=type)

_ASKED = (
    "_has_asset_key_col_on_connection",
    "has_asset_key_col",
    "has_backfill_id_column",
    "has_backfill_tags_table",
    "has_bulk_action_job_name_column",
    "has_bulk_actions_selector_cols",
    "has_default_pool_limit_col",
    "has_instigators_table",
    "has_run_stats_index_cols",
    "has_secondary_index_table",
    "has_table",
)


def asks_once(storage: _Storage) -> _Storage:
    """Let `storage`, a class, remember of each of its objects which tables and columns were found."""
    for name in _ASKED:
        if method := getattr(storage, name, None):
            setattr(storage, name, _remembering(method))
    return storage


def _remembering(method: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(method)
    def answer(storage: Any, *asked: Any) -> bool:
        known: set[tuple[Any, ...]] = vars(storage).setdefault("_known_tables", set())
        question = (method.__name__, *(one for one in asked if not isinstance(one, db.Connection)))
        if question in known:
            return True
        if found := method(storage, *asked):
            known.add(question)
        return found

    return answer
