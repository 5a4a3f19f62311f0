"""Keys of entities: alike from Python values and from columns, different for whatever differs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.feature_store.entity_keys import KEY_TYPES, EntityKeys, JoinKeyError, view_prefix

VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "string": st.text(),
    "bytes": st.binary(),
    "timestamp": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda at: at.replace(tzinfo=UTC)),
}


@st.composite
def entities(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Any]]]:
    join_keys = draw(st.dictionaries(st.text(min_size=1, max_size=5), st.sampled_from([*KEY_TYPES]), max_size=3))
    entity = st.fixed_dictionaries({name: VALUES[kind] for name, kind in join_keys.items()})
    return join_keys, draw(st.lists(entity, max_size=6))


@given(entities())
@settings(deadline=None)
def test_columns_and_python_values_give_equal_keys_one_for_each_entity(
    drawn: tuple[dict[str, str], list[dict[str, Any]]],
) -> None:
    join_keys, found = drawn
    keys = EntityKeys("shop/customers", join_keys)
    values = {name: [entity[name] for entity in found] for name in join_keys}
    table = pa.table({name: pa.array(values[name], KEY_TYPES[kind]) for name, kind in join_keys.items()})
    encoded = keys.of_values(values, len(found))
    assert len(encoded) == len(found)
    if join_keys:
        assert keys.of_table(table) == encoded
    assert len(set(encoded)) == len({frozenset(entity.items()) for entity in found})
    assert all(key.startswith(view_prefix("shop/customers")) for key in encoded)


def test_values_that_run_together_have_different_keys() -> None:
    keys = EntityKeys("v", {"a": "string", "b": "string"})
    first, second = keys.of_values({"a": ["xs", "x"], "b": ["y", "sy"]}, 2)
    assert first != second


def test_no_key_of_a_view_begins_like_those_of_another() -> None:
    assert not view_prefix("shop/days_of_week").startswith(view_prefix("shop/days"))


def test_a_view_whose_join_key_was_renamed_has_other_keys() -> None:
    of = [EntityKeys("v", {name: "int64"}).of_values({name: [1]}, 1) for name in ("customer", "product")]
    assert of[0] != of[1]


def test_numbers_of_numpy_and_of_any_width_are_numbers() -> None:
    keys = EntityKeys("v", {"n": "int64"})
    assert keys.of_values({"n": list(np.array([1, 2], np.int32))}, 2) == keys.of_values({"n": [1, 2]}, 2)
    assert keys.of_table(pa.table({"n": pa.array([1, 2], pa.int16())})) == keys.of_values({"n": [1, 2]}, 2)


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("int64", "7", "join key 'n' is str '7'; it is declared int64"),
        ("int64", True, "join key 'n' is bool True"),
        ("int64", 2**63, "it is declared int64"),
        ("int64", None, "join key 'n' is null"),
        ("string", 7, "join key 'n' is int 7; it is declared string"),
        ("bytes", "x", "join key 'n' is str 'x'; it is declared bytes"),
        ("timestamp", 7, "join key 'n' is int 7; it is declared timestamp"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(kind: str, value: object, problem: str) -> None:
    with pytest.raises(JoinKeyError, match=problem):
        EntityKeys("v", {"n": kind}).of_values({"n": [value]}, 1)


def test_a_missing_or_null_column_is_refused_by_name() -> None:
    keys = EntityKeys("v", {"n": "int64"})
    with pytest.raises(JoinKeyError, match="join key 'n' is missing; there are m"):
        keys.of_table(pa.table({"m": [1]}))
    with pytest.raises(JoinKeyError, match="join key 'n' is null in 1 rows"):
        keys.of_table(pa.table({"n": [1, None]}))
    with pytest.raises(JoinKeyError, match="join key 'n' is missing; there are none"):
        keys.of_values({}, 0)
