"""The champion's decisions answer which version served when, and cannot be made without a reason."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ml_assets.sdk.champion import (
    ChampionError,
    Decision,
    as_table,
    before,
    decisions_of,
    promoted,
    rolled_back,
    serving,
)
from resources.warehouse import Commit, TableName, Warehouse
from tests.ml_assets.sdk.bakery import weeks_from

FIRST, SECOND, THIRD = weeks_from("2017-03-06", 3)
TABLE = TableName.of_key(dg.AssetKey(["commerce", "bread_champion"]))


def start(week: str) -> datetime:
    return datetime.fromisoformat(week).replace(tzinfo=UTC)


def promotion(week: str, digest: str | None = None) -> Decision:
    return Decision(start(week), "promoted", week, 1, digest or f"digest {week}", None, "passed")


def rollback(week: str, to: str, reason: str = "prices were wrong", days: int = 2) -> Decision:
    return Decision(start(week) + timedelta(days=days), "rolled back", to, 1, f"digest {to}", week, reason)


def rolled(made: list[Decision], decision: Decision) -> list[Decision]:
    return rolled_back(made, decision, start(SECOND), start(THIRD))


def test_which_version_served_on_a_day_is_a_query(warehouse: Warehouse) -> None:
    stored = {FIRST: [promotion(FIRST)], SECOND: rolled([promotion(SECOND)], rollback(SECOND, FIRST))}
    for week, decisions in stored.items():
        warehouse.replace_partitions(TABLE, [week], as_table(decisions, week), Commit("test", "champion"))
    served = {}
    with warehouse.reader() as lake:
        for days in (-1, 0, 6, 7, 8, 9, 30):
            found = serving(lake, TABLE, start(FIRST) + timedelta(days=days))
            served[days] = found and found.version_of
        assert decisions_of(lake, TABLE, SECOND) == stored[SECOND]
        assert before(lake, TABLE, FIRST) is None
        assert before(lake, TABLE, SECOND) == stored[FIRST][0]
        assert before(lake, TABLE, THIRD) == stored[SECOND][-1]
        with pytest.raises(ValueError, match="no time zone"):
            serving(lake, TABLE, datetime(2017, 3, 6))
    assert served == {-1: None, 0: FIRST, 6: FIRST, 7: SECOND, 8: SECOND, 9: FIRST, 30: FIRST}


def test_nobody_serves_before_there_is_a_table(warehouse: Warehouse) -> None:
    with warehouse.reader() as lake:
        assert serving(lake, TABLE, datetime.now(UTC)) is None


def test_a_rollback_stands_until_another_model_file_passes() -> None:
    made = rolled([promotion(SECOND)], rollback(SECOND, FIRST))
    assert promoted(made, promotion(SECOND)) == made
    assert promoted(made, promotion(SECOND, "another file")) == [promotion(SECOND, "another file")]
    assert promoted([], promotion(SECOND)) == [promotion(SECOND)]


@pytest.mark.parametrize(
    ("made", "decision", "refusal"),
    [
        ([promotion(SECOND)], rollback(SECOND, FIRST, reason=" "), "needs a reason"),
        ([], rollback(SECOND, FIRST), "nothing has been promoted"),
        ([promotion(SECOND)], rollback(SECOND, FIRST, days=7), "does not belong to the partition"),
        ([promotion(SECOND)], rollback(SECOND, FIRST, days=-1), "does not belong to the partition"),
        ([promotion(SECOND)], rollback(SECOND, FIRST, days=0), "is not after its last decision"),
        ([promotion(SECOND)], rollback(SECOND, SECOND), f"the version of {SECOND} serves already"),
    ],
)
def test_a_rollback_that_makes_no_sense_is_refused(made: list[Decision], decision: Decision, refusal: str) -> None:
    with pytest.raises(ChampionError, match=refusal):
        rolled(made, decision)
