"""A point-in-time join says for every entity row what a brute-force search says, and nothing that came later."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.feature_store.point_in_time import (
    Feature,
    FeatureError,
    View,
    entity_rows,
    instant_literal,
    point_in_time_join,
    point_in_time_sql,
    quoted,
    within,
)

NOON = datetime(2017, 6, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
TIME = pa.timestamp("us", "UTC")
SOURCE = pa.schema(
    [
        ("household", pa.int64()),
        ("store", pa.string()),
        ("at", TIME),
        ("written", TIME),
        ("a", pa.int64()),
        ("b", pa.string()),
    ]
)
ENTITY = pa.schema([("event_timestamp", TIME), ("home", pa.int64()), ("store", pa.string()), ("label", pa.float64())])

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """Tables, the view over them, and what is asked."""

    source: list[Row]
    entity: list[Row]
    keys: dict[str, str] = field(default_factory=lambda: {"home": "household"})
    ttl: timedelta | None = None
    created: str | None = "written"
    cutoff: bool = False

    @property
    def view(self) -> View:
        features = [Feature("a", "view__a"), Feature("b", "view__b")]
        return View("view", "source", self.keys, "at", features, self.created, self.ttl)


def connected() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": "1"})
    connection.execute("set TimeZone = 'UTC'")
    return connection


def answered(question: Question) -> list[Row]:
    with connected() as connection:
        connection.register("source", pa.Table.from_pylist(question.source, SOURCE))
        rows = connection.from_arrow(pa.Table.from_pylist(question.entity, ENTITY))
        joined = point_in_time_join(connection, rows, [question.view], created_cutoff=question.cutoff)
        return joined.to_arrow_table().to_pylist()


def searched(question: Question) -> list[Row]:
    """The answer by looking at every row of the source for every entity row."""
    return [{**row, **features_of(question, row)} for row in question.entity]


def features_of(question: Question, row: Row) -> Row:
    at, oldest = row["event_timestamp"], datetime.min.replace(tzinfo=UTC)
    best: Row | None = None
    for candidate in question.source:
        same = all(row[ours] is not None and row[ours] == candidate[theirs] for ours, theirs in question.keys.items())
        if not same or candidate["at"] is None or candidate["at"] > at:
            continue
        if question.ttl and candidate["at"] < at - question.ttl:
            continue
        if question.cutoff and question.created and (candidate["written"] is None or candidate["written"] > at):
            continue
        if best is None or rank(question, candidate, oldest) > rank(question, best, oldest):
            best = candidate
    return {"view__a": best and best["a"], "view__b": best and best["b"]}


def rank(question: Question, row: Row, oldest: datetime) -> tuple[Any, ...]:
    created = (row["written"] or oldest) if question.created else oldest
    return (row["at"], created, row["a"] is not None, row["a"] or 0, row["b"] is not None, row["b"] or "")


# Few values, so that ties, repetitions and edges are the rule.
moments = st.builds(
    lambda hours, micros: NOON + timedelta(hours=hours) + micros * MICROSECOND,
    st.integers(-4, 4),
    st.sampled_from([0, 0, 0, -1, 1]),
)
households = st.sampled_from([1, 2, None])
stores = st.sampled_from(["x", "y", None])
source_rows = st.lists(
    st.fixed_dictionaries(
        {
            "household": households,
            "store": stores,
            "at": st.one_of(moments, st.none()),
            "written": st.one_of(moments, st.none()),
            "a": st.sampled_from([1, 2, 3, None]),
            "b": st.sampled_from(["p", "q", None]),
        }
    ),
    max_size=24,
)
asked_rows = st.lists(
    st.fixed_dictionaries(
        {"event_timestamp": moments, "home": households, "store": stores, "label": st.sampled_from([0.0, 1.0])}
    ),
    max_size=12,
)
questions = st.builds(
    Question,
    source_rows,
    asked_rows,
    st.sampled_from([{"home": "household"}, {"home": "household", "store": "store"}, {"store": "store"}, {}]),
    st.sampled_from([None, timedelta(0), timedelta(hours=1), timedelta(hours=3), MICROSECOND]),
    st.sampled_from(["written", None]),
    st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(questions)
def test_the_join_finds_what_a_search_of_every_row_finds(question: Question) -> None:
    assert answered(question) == searched(question)


late_rows = st.builds(
    lambda at, delay, a: source_row(at, a, at + timedelta(hours=delay)), moments, st.integers(-1, 6), st.integers(1, 9)
)
asked_of_one = st.lists(st.builds(lambda at: entity_row(at), moments), min_size=1, max_size=9)


@settings(max_examples=200, deadline=None)
@given(st.lists(late_rows, min_size=2, max_size=9), asked_of_one, st.sampled_from([None, timedelta(hours=2)]))
def test_with_a_cutoff_the_join_finds_what_a_search_finds(
    source: list[Row], entity: list[Row], ttl: timedelta | None
) -> None:
    question = Question(source, entity, ttl=ttl, cutoff=True)
    assert answered(question) == searched(question)


@settings(max_examples=60, deadline=None)
@given(questions, st.randoms(use_true_random=False))
def test_the_order_of_the_source_changes_nothing(question: Question, chance: random.Random) -> None:
    shuffled = chance.sample(question.source, len(question.source))
    again = Question(shuffled, question.entity, question.keys, question.ttl, question.created, question.cutoff)
    assert answered(again) == answered(question)


def source_row(at: datetime, a: int, written: datetime | None = None, household: int = 1) -> Row:
    return {"household": household, "store": None, "at": at, "written": written, "a": a, "b": None}


def entity_row(at: datetime, home: int = 1) -> Row:
    return {"event_timestamp": at, "home": home, "store": None, "label": 0.0}


def taken(question: Question) -> list[int | None]:
    return [row["view__a"] for row in answered(question)]


def test_a_row_exactly_as_old_as_its_time_to_live_still_counts() -> None:
    day = timedelta(days=1)
    asked = [entity_row(NOON + day - MICROSECOND), entity_row(NOON + day), entity_row(NOON + day + MICROSECOND)]
    assert taken(Question([source_row(NOON, 7)], asked, ttl=day)) == [7, 7, None]


def test_a_row_counts_from_its_own_time_on() -> None:
    asked = [entity_row(NOON - MICROSECOND), entity_row(NOON), entity_row(NOON + MICROSECOND)]
    assert taken(Question([source_row(NOON, 7)], asked)) == [None, 7, 7]


def test_a_late_correction_replaces_what_it_corrects() -> None:
    written = [NOON + timedelta(days=days) for days in (0, 3, 1)]
    source = [source_row(NOON, value, when) for value, when in zip([9, 5, 8], written, strict=True)]
    assert taken(Question(source, [entity_row(NOON + timedelta(hours=1))])) == [5]


def test_with_a_cutoff_a_correction_counts_only_once_it_was_written() -> None:
    source = [source_row(NOON, 9, NOON), source_row(NOON, 5, NOON + timedelta(days=3))]
    asked = [entity_row(NOON + timedelta(days=days)) for days in (0, 2, 3)]
    assert taken(Question(source, asked, cutoff=True)) == [9, 9, 5]


def test_with_a_cutoff_a_late_row_about_an_earlier_time_does_not_displace_a_newer_one() -> None:
    source = [
        source_row(NOON, 1, NOON),
        source_row(NOON + timedelta(days=2), 2, NOON + timedelta(days=2)),
        source_row(NOON + timedelta(days=1), 3, NOON + timedelta(days=4)),
    ]
    asked = [entity_row(NOON + timedelta(days=days)) for days in (1, 2, 3, 5)]
    assert taken(Question(source, asked, cutoff=True)) == [1, 2, 2, 2]


def test_an_expired_newest_row_does_not_let_an_older_one_through() -> None:
    source = [source_row(NOON, 1), source_row(NOON + timedelta(hours=1), 2)]
    assert taken(Question(source, [entity_row(NOON + timedelta(hours=5))], ttl=timedelta(hours=2))) == [None]


def test_repeated_entity_rows_all_come_back_in_their_order() -> None:
    asked = [entity_row(NOON, home) for home in (2, 1, 2, 1, 1)]
    rows = answered(Question([source_row(NOON, 1), source_row(NOON, 2, household=2)], asked))
    assert [(row["home"], row["view__a"]) for row in rows] == [(2, 2), (1, 1), (2, 2), (1, 1), (1, 1)]


def test_order_and_number_survive_many_threads_and_rows() -> None:
    chance = random.Random(3)
    asked = [entity_row(NOON + timedelta(hours=chance.randrange(99)), chance.randrange(500)) for _ in range(30_000)]
    for number, row in enumerate(asked):
        row["label"] = float(number)
    source = [
        source_row(NOON + timedelta(hours=hour), 500 * hour + household, household=household)
        for hour in range(0, 99, 3)
        for household in range(400)
    ]
    with duckdb.connect(config={"threads": "4"}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("source", pa.Table.from_pylist(source, SOURCE))
        rows = connection.from_arrow(pa.Table.from_pylist(asked, ENTITY))
        joined = point_in_time_join(connection, rows, [Question([], []).view]).to_arrow_table()
    assert joined.select(ENTITY.names).equals(pa.Table.from_pylist(asked, ENTITY))
    for row in joined.slice(0, 2_000).to_pylist():
        hour = (row["event_timestamp"] - NOON) // timedelta(hours=3) * 3
        assert row["view__a"] == (500 * hour + row["home"] if row["home"] < 400 else None)


def test_several_views_are_joined_each_by_its_own_keys_and_time_to_live() -> None:
    with connected() as connection:
        connection.register("source", pa.Table.from_pylist([source_row(NOON, 1), source_row(NOON, 2, None, 2)], SOURCE))
        connection.register("weather", pa.table({"day": [date(2017, 5, 31), date(2017, 6, 1)], "rain": [1.5, 2.5]}))
        rows = connection.from_arrow(
            pa.Table.from_pylist([entity_row(NOON, 2), entity_row(NOON - timedelta(days=1), 2)], ENTITY)
        )
        views = [
            View("home", "source", {"home": "household"}, "at", [Feature("a", "a")]),
            View("weather", "weather", {}, "day", [Feature("rain", "rain_mm")], ttl=timedelta(hours=12)),
        ]
        joined = point_in_time_join(connection, rows, views).to_arrow_table().to_pylist()
    assert [(row["a"], row["rain_mm"]) for row in joined] == [(2, 2.5), (None, 1.5)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("TIMESTAMP", ["2017-06-01 12:00:00", "2017-06-01 14:00:00"]),
        ("TIMESTAMP_NS", ["2017-06-01 12:00:00", "2017-06-01 14:00:00"]),
        ("TIMESTAMP_S", ["2017-06-01 12:00:00", "2017-06-01 14:00:00"]),
        ("TIMESTAMP_MS", ["2017-06-01 12:00:00", "2017-06-01 14:00:00"]),
        ("TIMESTAMPTZ", ["2017-06-01 14:00:00+02", "2017-06-01 05:00:00-09"]),
        ("DATE", ["2017-06-01", "2017-06-02"]),
    ],
)
def test_times_of_any_type_and_zone_are_the_same_instants(kind: str, values: list[str]) -> None:
    berlin = timezone(timedelta(hours=2))
    # 12:30 and 14:00 UTC, with a zone of its own and without any.
    aware = pa.array([datetime(2017, 6, 1, 14, 30, tzinfo=berlin), datetime(2017, 6, 1, 16, tzinfo=berlin)])
    naive = pa.array([datetime(2017, 6, 1, 12, 30), datetime(2017, 6, 1, 14)])
    for times in (aware, naive):
        with connected() as connection:
            connection.execute(f"create table source as select unnest($1)::{kind} as at, unnest([1, 2]) as a", [values])
            rows = connection.from_arrow(pa.table({"when": times, "home": [1, 1]}))
            view = View("view", "source", {}, "at", [Feature("a", "a")], ttl=timedelta(days=1))
            found = point_in_time_join(connection, rows, [view]).to_arrow_table()["a"].to_pylist()
        assert found == ([1, 1] if kind == "DATE" else [1, 2])


def test_infinite_and_null_times_in_the_source_count_never() -> None:
    with connected() as connection:
        connection.execute(
            "create table source as select unnest(['infinity', '-infinity', null]::timestamptz[]) as at, 1 as a"
        )
        rows = connection.from_arrow(pa.table({"event_timestamp": pa.array([NOON], TIME)}))
        view = View("view", "source", {}, "at", [Feature("a", "a")])
        assert point_in_time_join(connection, rows, [view]).fetchall()[0][1] is None


@pytest.mark.parametrize("name", ['quo"te', "select", "two words", "x'; drop table source; --", "ünï"])
def test_names_are_never_read_as_sql(name: str) -> None:
    with connected() as connection:
        connection.register("source", pa.table({name: [1], "at": pa.array([NOON], TIME), f"{name} value": [5]}))
        rows = connection.from_arrow(pa.table({"event_timestamp": pa.array([NOON], TIME), name: [1]}))
        view = View("view", "source", {name: name}, "at", [Feature(f"{name} value", f"f{name}")])
        assert point_in_time_join(connection, rows, [view]).to_arrow_table()[f"f{name}"].to_pylist() == [5]


def refused(view: View, entity: pa.Table, source: pa.Table, **options: Any) -> str:
    with connected() as connection:
        connection.register("source", source)
        with pytest.raises(FeatureError) as refusal:
            point_in_time_sql(connection, entity_rows(connection, connection.from_arrow(entity), **options), [view])
    return str(refusal.value)


ONE = pa.table({"event_timestamp": pa.array([NOON], TIME), "home": [1], "store": ["x"]})
SOME = pa.Table.from_pylist([source_row(NOON, 1)], SOURCE)


def view_of(keys: dict[str, str], features: Sequence[Feature], timestamp: str = "at") -> View:
    return View("homes", "source", keys, timestamp, features)


def test_a_view_whose_table_lacks_columns_is_refused_by_their_names() -> None:
    text = refused(view_of({"home": "house"}, [Feature("a", "a"), Feature("c", "c")]), ONE, SOME)
    assert "view 'homes': source lacks 'house', 'c'" in text


def test_a_view_over_no_table_is_refused_by_its_name() -> None:
    view = View("homes", "nowhere", {}, "at", [Feature("a", "a")])
    assert "nowhere is not there" in refused(view, ONE, SOME)


def test_keys_of_other_types_are_refused_rather_than_compared() -> None:
    assert "key 'household' of source is BIGINT, 'store' of the entity rows is VARCHAR" in refused(
        view_of({"store": "household"}, [Feature("a", "a")]), ONE, SOME
    )


def test_a_missing_key_of_the_entity_rows_is_refused_by_its_name() -> None:
    assert "lack its key 'town'" in refused(view_of({"town": "household"}, [Feature("a", "a")]), ONE, SOME)


def test_a_column_that_is_no_time_is_refused() -> None:
    assert "'a' of source is BIGINT, not a time" in refused(view_of({}, [Feature("b", "b")], "a"), ONE, SOME)


def test_a_feature_named_like_an_entity_column_is_refused() -> None:
    assert "the entity rows has a column 'Home' too" in refused(view_of({}, [Feature("a", "Home")]), ONE, SOME)


def test_entity_rows_after_now_are_refused_with_their_number_and_the_first() -> None:
    later = pa.table(
        {"event_timestamp": pa.array([NOON, NOON + MICROSECOND, NOON + timedelta(days=9)], TIME), "n": [7, 8, 9]}
    )
    text = refused(view_of({}, [Feature("a", "a")]), later, SOME, not_after=NOON)
    assert text.startswith("entity rows: 2 of 3 are later than now (2017-06-01 12:00:00 UTC), first row 1 (")
    assert "n=8" in text


def test_entity_rows_without_a_time_are_refused() -> None:
    undated = pa.table({"event_timestamp": pa.array([NOON, None], TIME)})
    assert "1 of 2 have no time in 'event_timestamp'" in refused(view_of({}, [Feature("a", "a")]), undated, SOME)


def test_times_given_as_text_are_refused() -> None:
    texts = pa.table({"event_timestamp": ["2017-06-01"]})
    assert "'event_timestamp' is VARCHAR; give it timestamps" in refused(view_of({}, [Feature("a", "a")]), texts, SOME)


def test_the_only_column_with_times_is_the_event_time_and_two_are_refused() -> None:
    times = pa.array([NOON], TIME)
    with connected() as connection:
        assert entity_rows(connection, connection.from_arrow(pa.table({"x": times, "y": [1]}))).timestamp == "x"
        with pytest.raises(FeatureError, match=r"several columns have times \(x, y\)"):
            entity_rows(connection, connection.from_arrow(pa.table({"x": times, "y": times})))


def test_no_entity_rows_give_no_rows_with_every_column() -> None:
    joined = answered(Question([source_row(NOON, 1)], []))
    assert joined == []


@settings(max_examples=50, deadline=None)
@given(st.lists(moments, max_size=6), st.one_of(moments, st.none()), st.one_of(moments, st.none()))
def test_a_period_includes_both_its_ends(times: list[datetime], first: datetime | None, last: datetime | None) -> None:
    with connected() as connection:
        connection.register("source", pa.table({"at": pa.array(times, TIME)}))
        kept = connection.sql(
            f"from source where {within(quoted('at'), 'TIMESTAMP WITH TIME ZONE', first, last)}"
        ).fetchall()
    expected = [at for at in times if (first is None or at >= first) and (last is None or at <= last)]
    assert sorted(at for (at,) in kept) == sorted(expected)


def test_an_instant_without_a_zone_is_in_utc() -> None:
    assert instant_literal(datetime(2017, 6, 1, 12)) == instant_literal(NOON)
    assert instant_literal(NOON.astimezone(timezone(timedelta(hours=-7)))) == instant_literal(NOON)
