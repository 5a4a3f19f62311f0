"""What tables a storage has is asked once, and what it lacks is asked again."""

from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.dagster_run import DagsterRun

from resources.environment import Environment
from resources.known_tables import asks_once
from tests.resources.instances import opened


def test_the_second_event_of_an_asset_asks_nothing_about_tables(stored_in: Environment) -> None:
    statements: list[str] = []

    def heard(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    def asked() -> list[str]:
        return [one for one in statements if "pg_catalog" in one or "PRAGMA main.table_" in one]

    db.event.listen(db.Engine, "before_cursor_execute", heard)
    try:
        with opened(stored_in) as instance:
            for number in range(2):
                statements.clear()
                instance.add_run(DagsterRun("job", run_id=f"run-{number}"))
                instance.report_runless_asset_event(dg.AssetMaterialization("asset", partition=str(number)))
                assert len(instance.get_asset_records([dg.AssetKey("asset")])) == 1
                assert len(instance.get_runs()) == number + 1
                if number == 0:
                    assert asked()
            assert asked() == []
    finally:
        db.event.remove(db.Engine, "before_cursor_execute", heard)


def test_what_is_not_there_yet_is_asked_about_again() -> None:
    @asks_once
    class Storage:
        def __init__(self, *tables: str) -> None:
            self.tables, self.asked = list(tables), 0

        def has_table(self, name: str) -> bool:
            self.asked += 1
            return name in self.tables

    storage, other = Storage(), Storage("runs")
    assert not storage.has_table("runs")
    assert other.has_table("runs")
    storage.tables.append("runs")
    assert [storage.has_table("runs") for _ in range(3)] == [True] * 3
    assert not storage.has_table("ticks")
    assert storage.asked == 3
