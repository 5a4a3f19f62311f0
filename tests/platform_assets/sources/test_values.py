"""The grammar of values against what Python makes of the same text: equal to it, or refused."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from platform_assets.sources.clocks import skipped_hours
from platform_assets.sources.declaration import Column
from platform_assets.sources.values import parsed, refusal

ZONES = ("UTC", "America/New_York", "Asia/Seoul", "Australia/Lord_Howe", "Europe/Lisbon")


def read(kind: str, texts: Sequence[str], zone: str = "", allow_nan: bool = False) -> list[Any]:
    column = Column("x", kind, "A value.", allow_nan=allow_nan, zone=zone)
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"select {parsed(column, zone, 't')} from (select unnest($texts) as t, unnest(range(len($texts))) as n) "
            "order by n",
            {"texts": list(texts)},
        )
        return [value for (value,) in rows.fetchall()]


def one(kind: str, text: str, zone: str = "", allow_nan: bool = False) -> Any:
    (value,) = read(kind, [text], zone, allow_nan)
    return value


LOOSE = st.text(st.sampled_from("0123456789.-+eExXbB_ \tTZ:/infa()"), min_size=1, max_size=30)


@given(st.one_of(st.integers(-(2**64), 2**64).map(str), st.from_regex(r"-?0*[0-9]{1,20}", fullmatch=True), LOOSE))
@example("12e-1")
@example("0x1F")
@example("0b11")
@example("1_000")
@example("+1")
@example(" 1")
@example("1\n")
@example("٣")
@settings(max_examples=300, deadline=None)
def test_a_whole_number_is_stored_exactly_or_refused(text: str) -> None:
    exact = int(text) if re.fullmatch(r"-?[0-9]+", text, re.ASCII) else None
    fits = exact is not None and -(2**63) <= exact < 2**63
    assert one("BIGINT", text) == (exact if fits else None)


@given(st.one_of(st.floats().map(repr), st.decimals(allow_nan=False, allow_infinity=False).map(str), LOOSE))
@example("nan")
@example("-inf")
@example("1e400")
@example("1e-400")
@example("-0.0e5")
@example("1_0.5")
@example("5.")
@example(".5")
@example("1 ")
@settings(max_examples=300, deadline=None)
def test_a_number_is_the_nearest_double_of_what_is_written_or_refused(text: str) -> None:
    decimal = re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text, re.ASCII)
    number = float(text) if decimal else math.nan
    vanishes = number == 0 and re.match(r"[-.0]*[1-9]", text)
    assert one("DOUBLE", text) == (number if math.isfinite(number) and not vanishes else None)


@pytest.mark.parametrize("text", ["NaN", "nan", "inf", "-Infinity"])
def test_what_is_no_number_is_stored_where_the_column_allows_it(text: str) -> None:
    assert one("DOUBLE", text) is None
    assert str(one("DOUBLE", text, allow_nan=True)) == str(float(text))
    assert one("DOUBLE", "1e400", allow_nan=True) is None
    assert "allow_nan=True" in refusal(Column("x", "DOUBLE", "A value."), "", text)


@given(
    st.one_of(
        st.dates().map(str),
        st.tuples(st.integers(0, 10_000), st.integers(0, 13), st.integers(0, 32)).map(
            lambda d: f"{d[0]:04}-{d[1]:02}-{d[2]:02}"
        ),
        LOOSE,
    )
)
@example("2017-03-01garbage")
@example("2017-03-01/2017-03-07")
@example("2017-03-01T23:30:00-05:00")
@example("17-03-01")
@example("epoch")
@example("infinity")
@example("0044-03-15 (BC)")
@example("2017/03/01")
@settings(max_examples=300, deadline=None)
def test_a_day_is_stored_as_it_is_written_or_refused(text: str) -> None:
    try:
        day = date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) else None
    except ValueError:
        day = None
    assert one("DATE", text) == day


@st.composite
def times(draw: st.DrawFn) -> str:
    """Texts of times, most of them right, with all kinds of offsets and fractions."""
    moment = draw(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)))
    text = moment.strftime("%H:%M") + draw(st.sampled_from(["", ":59", ":00", ":60", f":{moment.second:02}"]))
    if text.count(":") == 2:
        text += draw(st.sampled_from(["", ".5", ".123456", ".1234560", ".1234567", ".", ".000000001"]))
    offset = draw(
        st.one_of(st.just(""), st.sampled_from(["Z", "z", "+09:00", "-0500", "+05", "+99:00", "-18:30", " Z"]))
    )
    spread = draw(st.one_of(st.none(), st.integers(-16 * 60, 16 * 60)))
    if spread is not None and draw(st.booleans()):
        offset = f"{'-' if spread < 0 else '+'}{abs(spread) // 60:02}:{abs(spread) % 60:02}"
    return f"{moment.date()}{draw(st.sampled_from('T '))}{text}{offset}"


def expected(text: str, zone: str) -> datetime | None:
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,6})0*)?(Z|[+-]\d\d(?::?[0-5]\d)?)?)?", text, re.ASCII
    )
    if not found or (found[3] and len(found[2]) < 8):
        return None
    try:
        moment = datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}")
    except ValueError:
        return None
    moment += timedelta(microseconds=int((found[3] or "").ljust(6, "0")))
    if not found[4]:
        return moment
    if not zone:
        return None
    digits = found[4][1:].replace(":", "").ljust(4, "0")
    offset = timedelta() if found[4] == "Z" else timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    offset = -offset if found[4][0] == "-" else offset
    if not timedelta(hours=-12) <= offset <= timedelta(hours=14):
        return None
    return (moment - offset).replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@given(st.lists(times(), min_size=1, max_size=20), st.sampled_from(["", "UTC"]))
@example(["2017-03-01T12:00:00-05:00", "2017-03-01T12:00:00Z", "2017-03-01T12:00:00+09:00"], "UTC")
@example(["2017-03-01T12:00:00+99:00", "2017-03-01 24:00:00", "epoch", "infinity", "0044-03-15 (BC) 00:00:00"], "UTC")
@settings(max_examples=200, deadline=None)
def test_a_time_is_stored_as_it_is_written_in_the_declared_zone_or_refused(texts: list[str], zone: str) -> None:
    assert read("TIMESTAMP", texts, zone) == [expected(text, zone) for text in texts]


@given(
    st.lists(st.datetimes(datetime(1970, 1, 2), datetime(2037, 12, 30)), min_size=1, max_size=20),
    st.sampled_from(ZONES),
)
@settings(max_examples=200, deadline=None)
def test_an_offset_is_converted_as_the_zone_database_has_it(moments: list[datetime], zone: str) -> None:
    texts = [f"{moment.isoformat(timespec='microseconds')}+09:00" for moment in moments]
    assert read("TIMESTAMP", texts, zone) == [expected(text, zone) for text in texts]


def test_a_refusal_says_what_an_offset_needs() -> None:
    column = Column("sold_at", "TIMESTAMP", "When.")
    assert "declare Column('sold_at', …, zone=…)" in refusal(column, "", "2017-03-01T12:00:00Z")
    assert "Z or -12:00 to +14:00" in refusal(column, "UTC", "2017-03-01T12:00:00+99:00")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("1", None), ("t", None), ("yes", None)])
def test_true_and_false_are_written_out(text: str, value: bool | None) -> None:
    assert one("BOOLEAN", text) is value


@given(st.datetimes(datetime(1950, 1, 1), datetime(2037, 1, 1)), st.sampled_from(ZONES))
@settings(max_examples=200, deadline=None)
def test_skipped_hours_are_the_times_that_no_clock_has_shown(moment: datetime, zone: str) -> None:
    clock = ZoneInfo(zone)
    there = moment.replace(tzinfo=clock).astimezone(UTC).astimezone(clock).replace(tzinfo=None)
    skipped = any(start <= moment < end for start, end in skipped_hours(zone, moment, moment))
    assert skipped == (there != moment)


def test_every_skipped_hour_of_a_year_is_known_to_the_second() -> None:
    year = datetime(2017, 6, 1)
    assert list(skipped_hours("America/New_York", year, year)) == [(datetime(2017, 3, 12, 2), datetime(2017, 3, 12, 3))]
    assert list(skipped_hours("Australia/Lord_Howe", year, year)) == [
        (datetime(2017, 10, 1, 2), datetime(2017, 10, 1, 2, 30))
    ]
    assert list(skipped_hours("UTC", year, year)) == []
