"""Declarations say what is wrong with them when they are made."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_assets.features.views import (
    DeclarationError,
    EndOf,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandTransform,
    RequestSource,
    StartOf,
)
from platform_assets.partitions import CALENDARS
from resources.warehouse import Warehouse

SHOP = Entity("shop", "shop_id", "BIGINT", "One shop.")
SALES = Feature("sales_usd", "DOUBLE", "Sales.")
VIEW = FeatureView(
    name="shop_sales",
    team="commerce",
    entities=(SHOP,),
    source="commerce/shop_days",
    grain="daily",
    timestamp=EndOf("day"),
    ttl=timedelta(days=3),
    features=(SALES,),
    description="One row per shop and day.",
)
REQUEST = RequestSource("plan", (Feature("planned_usd", "DOUBLE", "Plan."),), "A plan.")


def share(planned_usd: float, sales_usd: float) -> float:
    return planned_usd / sales_usd


def transform(**changed: Any) -> OnDemandTransform:
    said: dict[str, Any] = {
        "name": "plan_share",
        "team": "commerce",
        "request": REQUEST,
        "reads": VIEW.select("sales_usd"),
        "output": Feature("share", "DOUBLE", "Share."),
        "function": share,
        "description": "One value per shop and plan.",
        "examples": ({"planned_usd": 1.0},),
    }
    return OnDemandTransform(**{**said, **changed})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: replace(VIEW, name="Shop Sales"), "view 'Shop Sales': name 'Shop Sales'; use words in lower case"),
        (lambda: replace(VIEW, name="a__b"), "single underscores"),
        (lambda: replace(VIEW, team="nobody"), "unknown team 'nobody'"),
        (
            lambda: replace(VIEW, grain="yearly"),
            "view 'shop_sales': grain is 'yearly'; allowed: hourly, daily, weekly, monthly",
        ),
        (
            lambda: replace(VIEW, team="webtoon", source="webtoon/hours", grain="hourly"),
            "the local time of an hour does not tell when it ends",
        ),
        (lambda: replace(VIEW, source="shop_days"), "source 'shop_days' names no mart; write team/entity"),
        (lambda: replace(VIEW, source="nobody/shop_days"), "team 'nobody' has no 'daily' calendar"),
        (lambda: replace(VIEW, ttl=timedelta()), "view 'shop_sales': ttl is 0:00:00"),
        (lambda: replace(VIEW, entities=()), "view 'shop_sales' has no entity"),
        (lambda: replace(VIEW, features=()), "view 'shop_sales' declares no feature"),
        (lambda: replace(VIEW, features=(SALES, SALES)), "feature 'sales_usd' has a name that is taken"),
        (
            lambda: replace(VIEW, features=(replace(SALES, name="shop_id"),)),
            "feature 'shop_id' has a name that is taken",
        ),
        (lambda: replace(VIEW, features=(replace(SALES, name="event_time"),)), "'event_time' has a name that is taken"),
        (
            lambda: replace(VIEW, features=(replace(SALES, type="MONEY"),)),
            "feature 'sales_usd' is 'MONEY'; allowed: BOOL",
        ),
        (lambda: replace(VIEW, features=(replace(SALES, description=" "),)), "'sales_usd' has no description"),
        (
            lambda: replace(VIEW, features=(SALES, replace(SALES, name="again", column="sales_usd"))),
            "two features read column sales_usd",
        ),
        (lambda: replace(VIEW, description=""), "view 'shop_sales' has no description"),
        (lambda: replace(SHOP, type="DOUBLE"), "entity 'shop': key 'shop_id' is 'DOUBLE'; allowed: BIGINT, VARCHAR"),
        (lambda: VIEW.select("profit"), "view 'shop_sales' has no feature 'profit'; it has sales_usd"),
        (lambda: FeatureService("all", "commerce", (), "Nothing."), "service 'all' selects no feature"),
        (lambda: FeatureService("all", "commerce", (VIEW.select(), VIEW.select()), "Twice."), "from a view twice"),
        (
            lambda: transform(function=lambda plan: plan),
            "its function takes plan, its inputs are planned_usd, sales_usd",
        ),
        (lambda: transform(examples=()), "transform 'plan_share': give examples, each with a value for planned_usd"),
        (lambda: transform(examples=({"plan": 1},)), "each with a value for planned_usd"),
        (lambda: transform(output=SALES), "feature 'sales_usd' has a name that is taken"),
    ],
)
def test_a_wrong_declaration_is_refused_with_what_is_wrong(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        wrong()
    assert said in str(refused.value)


def test_a_view_belongs_to_its_team_unless_somebody_else_is_named() -> None:
    assert VIEW.owner == "team:commerce"
    assert replace(VIEW, owner="pricing@example.com").owner == "pricing@example.com"


@pytest.mark.parametrize(
    ("day", "known_at"),
    [
        ("2017-03-11", datetime(2017, 3, 12, 5, tzinfo=UTC)),
        # Clocks go forward in the night after the first, back in that after the second.
        ("2017-03-12", datetime(2017, 3, 13, 4, tzinfo=UTC)),
        ("2017-11-05", datetime(2017, 11, 6, 5, tzinfo=UTC)),
        # The stores are closed on the day after.
        ("2017-12-24", datetime(2017, 12, 25, 5, tzinfo=UTC)),
        ("2017-12-31", datetime(2018, 1, 1, 5, tzinfo=UTC)),
    ],
)
def test_a_day_is_known_when_it_has_ended_where_the_team_is(day: str, known_at: datetime) -> None:
    assert VIEW.known_at(day) == known_at


@pytest.mark.parametrize(
    ("day", "known_at", "known_since"),
    [
        ("2017-03-12", datetime(2017, 3, 12, 5, tzinfo=UTC), datetime(2017, 3, 11, 5, tzinfo=UTC)),
        ("2017-03-13", datetime(2017, 3, 13, 4, tzinfo=UTC), datetime(2017, 3, 12, 5, tzinfo=UTC)),
    ],
)
def test_what_is_known_when_a_day_begins_is_known_a_day_earlier(
    day: str, known_at: datetime, known_since: datetime
) -> None:
    view = replace(VIEW, timestamp=StartOf("day"))
    assert (view.known_at(day), view.known_since(day)) == (known_at, known_since)
    assert VIEW.known_since(day) == known_at
    assert view.ended(day) == VIEW.ended(day) == VIEW.known_at(day)


@pytest.mark.parametrize("view", [VIEW, replace(VIEW, timestamp=StartOf("day"))], ids=["end", "start"])
def test_the_lake_computes_the_same_instants(warehouse: Warehouse, view: FeatureView) -> None:
    days = view.calendar.get_partition_keys()
    with warehouse.reader() as lake:
        listed = ", ".join(f"(date '{day}')" for day in days)
        found = lake.execute(f"select {view.event_sql} from (values {listed}) as days(day)").fetchall()
    assert [instant for (instant,) in found] == [view.known_at(day) for day in days]


def test_a_view_of_some_of_its_teams_partitions_has_these() -> None:
    some = dg.DailyPartitionsDefinition("2017-05-01", end_date="2017-05-04", timezone="America/New_York")
    view = replace(VIEW, partitions=some)
    assert view.calendar.get_partition_keys() == ["2017-05-01", "2017-05-02", "2017-05-03"]


@pytest.mark.parametrize(("days", "lookback"), [(1, 1), (3, 3), (3.97, 4), (0.5, 0)])
def test_the_lookback_covers_the_ttl_also_when_clocks_change(days: float, lookback: int) -> None:
    assert replace(VIEW, ttl=timedelta(days=days)).lookback() == lookback


@given(st.lists(st.tuples(st.floats(0.5, 9), st.floats(1, 9)), max_size=20))
def test_a_transform_gives_the_same_in_a_batch_and_row_by_row(rows: list[tuple[float, float]]) -> None:
    one = transform()
    columns = {"planned_usd": [plan for plan, _ in rows], "sales_usd": [sold for _, sold in rows]}
    by_row = [one.of_row({"planned_usd": plan, "sales_usd": sold, "shop_id": 1}) for plan, sold in rows]
    assert one.of_columns(columns) == {"share": by_row}


@pytest.mark.parametrize("zone", ["America/New_York", "America/Havana", "America/Sao_Paulo", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    ("grain", "make"),
    [
        ("daily", dg.DailyPartitionsDefinition),
        ("weekly", dg.WeeklyPartitionsDefinition),  # of Sundays
        ("monthly", dg.MonthlyPartitionsDefinition),
    ],
)
@pytest.mark.parametrize("time", [StartOf("day"), EndOf("day")])
def test_a_row_is_known_when_its_own_day_week_or_month_begins_or_ends_whatever_its_length(
    zone: str,
    grain: str,
    make: type[dg.TimeWindowPartitionsDefinition],
    time: StartOf | EndOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calendar = make(start_date="2017-01-01", end_date="2018-01-07", timezone=zone)  # type: ignore[call-arg]
    monkeypatch.setitem(CALENDARS["commerce"], grain, calendar)  # type: ignore[arg-type]
    view = replace(VIEW, grain=grain, timestamp=time)
    keys = calendar.get_partition_keys()
    with duckdb.connect() as connection:
        rows = connection.execute(f"select {view.event_sql} from (select unnest(?)::date as day)", [list(keys)])
        found = [moment.astimezone(UTC) for (moment,) in rows.fetchall()]
    assert found == [view.known_at(key) for key in keys]
    assert [view.known_since(key) for key in keys[1:]] == (
        [view.known_at(key) for key in keys[:-1]]
        if isinstance(time, StartOf)
        else [calendar.time_window_for_partition_key(key).start.astimezone(UTC) for key in keys[1:]]
    )
