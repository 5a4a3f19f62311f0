"""What the text of a value must look like to be of its column's type: one grammar for CSV and JSON lines.

Belongs here: the grammar, as SQL that turns text into a value or NULL, and in words. Not here: files, and what the
values must be among each other (`validation.py`, `expectations.py`).

A value is stored exactly as it is written, or refused. DuckDB's own casts are far more lenient: they take 1e-1, 0x1F
and 1_000 for whole numbers, drop the offset of a timestamp, and cut what follows a date.
"""

import re
from collections.abc import Mapping

from platform_assets.sources.declaration import Column

_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6}0*)?)?"
# No clock on earth is more than 12 hours behind UTC, or 14 ahead.
_OFFSET = r"(Z|[+](0[0-9]|1[0-3])(:?[0-5][0-9])?|[+]14(:?00)?|-(0[0-9]|1[01])(:?[0-5][0-9])?|-12(:?00)?)"
_BIGINT = r"-?[0-9]+"
_DECIMAL = "[-.0-9][-+.0-9eE]*"
_NAIVE = rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([ T]{_TIME})?"
_ZONED = rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[ T]{_TIME}{_OFFSET}"
_FIRST, _LAST = "TIMESTAMP '0001-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"
_NOT_NUMBERS = "('nan', 'inf', '-inf', 'infinity', '-infinity')"

_WORDS: Mapping[str, str] = {
    "BIGINT": "digits with an optional minus sign, from -9223372036854775808 to 9223372036854775807",
    "BOOLEAN": "true or false",
    "DATE": "a day of the calendar, as YYYY-MM-DD",
    "DOUBLE": "a decimal number, zero or from 4.9e-324 to 1.8e308, with an optional minus sign and exponent",
    "TIMESTAMP": "YYYY-MM-DD HH:MM:SS, with a T or a blank between and at most six digits of a second",
}
_LOOKS_ZONED = re.compile(r".*\d(Z|[+-]\d\d(:?\d\d)?)", re.DOTALL)


def parsed(column: Column, zone: str, text: str) -> str:
    """SQL of the value that the SQL `text` is, or of NULL where it is none of the column's type.

    Args:
        column: the declared column.
        zone: the time zone that its timestamps are recorded in; empty if none is declared.
        text: SQL of type VARCHAR, named once a use.
    """
    cast = f"try_cast({text} as {column.type})"
    if column.type == "VARCHAR":
        return text
    if column.type == "BOOLEAN":
        return f"case lower({text}) when 'true' then true when 'false' then false end"
    if column.type == "DATE":
        return f"case when strlen({text}) = 10 and {cast}::varchar = {text} then {cast} end"
    if column.type == "BIGINT":
        # Most numbers are written as DuckDB writes them, and matching a pattern costs three times as much.
        return (
            f"case when {cast}::varchar = {text} then {cast} "
            f"when regexp_full_match({text}, '{_BIGINT}') then {cast} end"
        )
    if column.type == "DOUBLE":
        # The cast knows where the signs, the point and the exponent belong, but takes blanks, underscores and names.
        decimal = f"regexp_full_match({text}, '{_DECIMAL}')"
        # What is too small becomes zero, which it is not.
        decimal += f" and ({cast} <> 0 or not regexp_matches({text}, '^[-.0]*[1-9]'))"
        names = f"when lower({text}) in {_NOT_NUMBERS} then {cast} " if column.allow_nan else ""
        return f"case when {decimal} and isfinite({cast}) then {cast} {names}end"
    return _timestamp(zone, text)


def _timestamp(zone: str, text: str) -> str:
    cast = f"try_cast({text} as TIMESTAMP)"
    naive = (
        f"case when {cast} between {_FIRST} and {_LAST} and {cast}::varchar = {text} then {cast} "
        f"when regexp_full_match({text}, '{_NAIVE}') and {text} >= '0001' then {cast} "
    )
    if not zone:
        return naive + "end"
    # DuckDB reads no offset behind a time without seconds.
    timed = f"regexp_replace({text}, '([ T]..:..)([Z+-])', '\\1:00\\2')"
    local = f"timezone('{zone}', try_cast({timed} as TIMESTAMPTZ))"
    return (
        naive + f"when regexp_full_match({text}, '{_ZONED}') and {local} between {_FIRST} and {_LAST} then {local} end"
    )


def refusal(column: Column, zone: str, value: str) -> str:
    """Why `value` is not of the column's type, in words."""
    shown = repr(value if len(value) <= 100 else f"{value[:100]}…")
    if column.type == "TIMESTAMP" and _LOOKS_ZONED.fullmatch(value):
        if not zone:
            return (
                f"{shown} has an offset from UTC, and the column declares no time zone to convert it to; "
                f"declare Column({column.name!r}, …, zone=…)"
            )
        return f"{shown} is no TIMESTAMP ({_WORDS[column.type]}; an offset from UTC is Z or -12:00 to +14:00)"
    named = column.type == "DOUBLE" and value.lower().lstrip("+-") in ("nan", "inf", "infinity")
    allowed = "; NaN and infinities need Column(…, allow_nan=True)" if named else ""
    return f"{shown} is no {column.type} ({_WORDS[column.type]}{allowed})"
