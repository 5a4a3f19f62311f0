"""Reading features: values, whether they are there, how old they may be, and refusals that name what is wrong."""

import random
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from resources.feature_store.entity_keys import JoinKeyError
from resources.feature_store.online_rows import OnlineRows
from resources.feature_store.online_writer import Refreshed, refresh, write
from resources.feature_store.packed_rows import RowError, arrow_type
from resources.feature_store.reader import OnlineReader, Status, UnknownFeatureError
from resources.feature_store.served_view import ServedView

NOON = datetime(2017, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CUSTOMERS = ServedView(
    "customers",
    {"customer": "int64"},
    {"spent": "float64", "baskets": "int64", "name": "string", "lately": "list<float32>", "since": "date"},
    ttl=DAY,
)
PAIRS = ServedView("pairs", {"product": "string", "customer": "int64"}, {"bought": "int64", "spent": "float64"})
VIEWS = [CUSTOMERS, PAIRS]
PRESENT, NULL, NOT_FOUND, OUTSIDE = Status.PRESENT, Status.NULL, Status.NOT_FOUND, Status.OUTSIDE_TTL


def reader_of(rows: OnlineRows, now: datetime = NOON) -> OnlineReader:
    return OnlineReader(rows, VIEWS, now=now.timestamp)


def table_of(view: ServedView, records: list[dict[str, Any]]) -> pa.Table:
    """`records` as columns; "at" is their event time."""
    kinds = {**view.join_keys, **view.features, "at": "timestamp"}
    return pa.table({name: pa.array([r.get(name) for r in records], arrow_type(kind)) for name, kind in kinds.items()})


@pytest.fixture
def filled(rows: OnlineRows) -> OnlineRows:
    customers: list[dict[str, Any]] = [
        {"customer": 1, "spent": 1.5, "baskets": 3, "name": "Ærø", "lately": [0.5], "since": date(2016, 1, 1)},
        {"customer": 2, "spent": None, "baskets": 4},
    ]
    write(rows, CUSTOMERS, table_of(CUSTOMERS, [{**record, "at": NOON} for record in customers]), "at")
    pairs = [{"product": "milk", "customer": 1, "bought": 7, "spent": 9.5, "at": NOON - 900 * DAY}]
    write(rows, PAIRS, table_of(PAIRS, pairs), "at")
    return rows


def test_features_of_several_views_are_answered_in_the_order_asked(filled: OnlineRows) -> None:
    found = reader_of(filled).read(
        ["customers:name", "pairs:bought", "customers:spent", "customers:lately", "customers:since"],
        {"customer": [2, 1, 3, 1], "product": ["milk", "milk", "milk", "bread"]},
    )
    assert found.columns == {
        "name": (None, "Ærø", None, "Ærø"),
        "bought": (None, 7, None, None),
        "spent": (None, 1.5, None, 1.5),
        "lately": (None, [0.5], None, [0.5]),
        "since": (None, date(2016, 1, 1), None, date(2016, 1, 1)),
    }
    assert list(found.columns) == ["name", "bought", "spent", "lately", "since"]


def test_each_value_says_whether_it_is_there_and_when_it_was_true(filled: OnlineRows) -> None:
    asked: dict[str, list[Any]] = {"customer": [1, 2, 3], "product": ["milk"] * 3}
    found = reader_of(filled).read(["customers:spent", "customers:baskets", "pairs:bought"], asked)
    assert found.statuses() == {
        "spent": [PRESENT, NULL, NOT_FOUND],
        "baskets": [PRESENT, PRESENT, NOT_FOUND],
        "bought": [PRESENT, NOT_FOUND, NOT_FOUND],
    }
    assert found.event_times() == {
        "spent": [NOON, NOON, None],
        "baskets": [NOON, NOON, None],
        "bought": [NOON - 900 * DAY, None, None],
    }


@pytest.mark.parametrize(
    ("now", "value", "status"),
    [
        (NOON - DAY, 3, PRESENT),
        (NOON + DAY, 3, PRESENT),
        (NOON + DAY + timedelta(microseconds=1), None, OUTSIDE),
        (NOON + 900 * DAY, None, OUTSIDE),
    ],
)
def test_a_value_is_served_until_the_very_end_of_its_time(
    filled: OnlineRows, now: datetime, value: int | None, status: Status
) -> None:
    found = reader_of(filled, now).read(["customers:baskets"], {"customer": [1]})
    assert found.columns == {"baskets": (value,)}
    assert found.statuses() == {"baskets": [status]}
    assert found.event_times() == {"baskets": [NOON]}


def test_without_a_clock_of_its_own_it_takes_the_machines(filled: OnlineRows) -> None:
    fresh = datetime.fromtimestamp(time.time(), UTC)
    write(filled, CUSTOMERS, table_of(CUSTOMERS, [{"customer": 1, "baskets": 9, "at": fresh}]), "at")
    found = OnlineReader(filled, VIEWS).read(["customers:baskets"], {"customer": [1, 2]})
    assert found.statuses() == {"baskets": [PRESENT, OUTSIDE]}


def test_an_answer_becomes_a_table_of_the_declared_types(filled: OnlineRows) -> None:
    table = (
        reader_of(filled).read([f"customers:{name}" for name in CUSTOMERS.features], {"customer": [9, 1]}).to_arrow()
    )
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        name: arrow_type(kind) for name, kind in CUSTOMERS.features.items()
    }
    assert table.slice(1).to_pylist() == [
        {"spent": 1.5, "baskets": 3, "name": "Ærø", "lately": [0.5], "since": date(2016, 1, 1)}
    ]


def test_entities_may_be_given_one_by_one(filled: OnlineRows) -> None:
    reader = reader_of(filled)
    found = reader.read(["pairs:bought"], [{"customer": 1, "product": "milk"}, {"customer": 1, "product": "bread"}])
    assert found.columns == {"bought": (7, None)}
    assert reader.read(["pairs:bought"], []).columns == {"bought": ()}
    assert reader.read(["pairs:bought"], {"customer": [], "product": []}).columns == {"bought": ()}


def test_equal_names_of_two_views_need_full_names(filled: OnlineRows) -> None:
    asked = ["customers:spent", "pairs:spent"]
    entities: dict[str, list[Any]] = {"customer": [1], "product": ["milk"]}
    with pytest.raises(UnknownFeatureError, match="asked for twice: spent; full_names"):
        reader_of(filled).read(asked, entities)
    found = reader_of(filled).read(asked, entities, full_names=True)
    assert found.columns == {"customers__spent": (1.5,), "pairs__spent": (9.5,)}


@pytest.mark.parametrize(
    ("feature", "problem"),
    [
        ("customers:spend", "no view serves 'customers:spend'; did you mean customers:spent?"),
        ("customer:spent", "did you mean customers:spent?"),
        ("spent", "no view serves 'spent'"),
    ],
)
def test_a_feature_that_nobody_serves_is_refused_with_the_nearest(rows: OnlineRows, feature: str, problem: str) -> None:
    with pytest.raises(UnknownFeatureError) as refused:
        reader_of(rows).read([feature], {"customer": [1]})
    assert problem in str(refused.value)


def test_entities_that_do_not_fit_the_view_are_refused_by_name(rows: OnlineRows) -> None:
    reader = reader_of(rows)
    with pytest.raises(JoinKeyError, match="'product' is missing; there are customer"):
        reader.read(["pairs:bought"], {"customer": [1]})
    with pytest.raises(JoinKeyError, match="'customer' is str '1'; it is declared int64"):
        reader.read(["customers:spent"], {"customer": ["1"]})
    with pytest.raises(JoinKeyError, match="different numbers of values"):
        reader.read(["pairs:bought"], {"customer": [1], "product": []})
    with pytest.raises(JoinKeyError, match="different join keys"):
        reader.read(["customers:spent"], [{"customer": 1}, {"product": "milk"}])


def test_rows_of_an_older_declaration_are_read_by_name_until_they_are_written_again(filled: OnlineRows) -> None:
    grown = ServedView("customers", CUSTOMERS.join_keys, {"baskets": "int64", "visits": "int64"})
    reader = OnlineReader(filled, [grown])
    asked = ["customers:visits", "customers:baskets"]
    assert reader.read(asked, {"customer": [1]}).columns == {"visits": (None,), "baskets": (3,)}
    write(filled, grown, table_of(grown, [{"customer": 1, "visits": 5, "baskets": 4, "at": NOON}]), "at")
    assert reader.read(asked, {"customer": [1, 2]}).columns == {"visits": (5, None), "baskets": (4, 4)}
    changed = ServedView("customers", CUSTOMERS.join_keys, {"name": "int64"})
    with pytest.raises(RowError, match="'name' is declared int64, but an older row holds string"):
        OnlineReader(filled, [changed]).read(["customers:name"], {"customer": [2]})


def test_a_view_without_join_keys_has_one_row(rows: OnlineRows) -> None:
    shop = ServedView("shop", {}, {"open": "bool"})
    write(rows, shop, pa.table({"open": [True], "at": pa.array([NOON])}), "at")
    assert OnlineReader(rows, [shop]).read(["shop:open"], {"customer": [1, 2]}).columns == {"open": (True, True)}


def test_after_a_refresh_exactly_what_was_in_the_source_is_served(rows: OnlineRows) -> None:
    chance = random.Random(7)
    reader = reader_of(rows)
    for hour in range(4):
        as_of = NOON + timedelta(hours=hour)
        there = sorted(chance.sample(range(300), 200))
        spent = {customer: chance.random() if chance.random() < 0.9 else None for customer in there}
        records = [{"customer": customer, "spent": spent[customer], "at": as_of} for customer in there]
        batches = [table_of(CUSTOMERS, records[:70]), table_of(CUSTOMERS, records[70:])]
        before = rows.count(CUSTOMERS.stored_as)
        for _ in range(2):
            done = refresh(rows, CUSTOMERS, batches, as_of, "at")
            assert done.written == 200
        assert done == Refreshed(200, 0)
        assert rows.count(CUSTOMERS.stored_as) == 200
        assert before in (0, 200)
        found = reader.read(["customers:spent"], {"customer": range(300)})
        assert found.columns["spent"] == tuple(spent.get(customer) for customer in range(300))
        status = [NOT_FOUND if c not in spent else NULL if spent[c] is None else PRESENT for c in range(300)]
        assert found.statuses()["spent"] == status


def test_a_refresh_that_breaks_off_serves_the_old_keys_and_the_next_one_ends_it(rows: OnlineRows) -> None:
    def batches(break_off: bool) -> Iterator[pa.Table]:
        yield table_of(CUSTOMERS, [{"customer": 1, "baskets": 10, "at": NOON}])
        if break_off:
            raise InterruptedError
        yield table_of(CUSTOMERS, [{"customer": 3, "baskets": 30, "at": NOON}])

    first = table_of(CUSTOMERS, [{"customer": customer, "baskets": customer, "at": NOON - DAY} for customer in (1, 2)])
    refresh(rows, CUSTOMERS, [first], NOON - DAY, "at")
    with pytest.raises(InterruptedError):
        refresh(rows, CUSTOMERS, batches(break_off=True), NOON, "at")
    asked: tuple[list[str], dict[str, list[int]]] = ["customers:baskets"], {"customer": [1, 2, 3]}
    assert reader_of(rows).read(*asked).columns == {"baskets": (10, 2, None)}
    assert refresh(rows, CUSTOMERS, batches(break_off=False), NOON, "at") == Refreshed(2, 1)
    assert reader_of(rows).read(*asked).columns == {"baskets": (10, None, 30)}
