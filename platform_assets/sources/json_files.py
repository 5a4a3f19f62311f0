"""Reading JSON lines: one object a line, columns by its keys.

Belongs here: what is special to JSON. Not here: the bytes (`text_files.py`), and what a text must look like
(`values.py`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import duckdb

from platform_assets.sources.declaration import Column
from platform_assets.sources.forms import (
    AS_DECLARED,
    DELIVER_AGAIN,
    DeliveredFile,
    Fault,
    Form,
    Found,
    first_found,
    first_line,
    free_name,
    name_faults,
    shortened,
    together_or_alone,
    unreadable,
)
from platform_assets.sources.text_files import DamagedFileError, numbered_lines
from resources.engine import connect, literal, quoted

_KINDS: Mapping[str, tuple[str, ...]] = {
    "BIGINT": ("BIGINT", "UBIGINT"),
    "BOOLEAN": ("BOOLEAN",),
    "DATE": ("VARCHAR",),
    "DOUBLE": ("BIGINT", "UBIGINT", "DOUBLE"),
    "TIMESTAMP": ("VARCHAR",),
    "VARCHAR": ("VARCHAR",),
}
_WORDS: Mapping[str, str] = {
    "ARRAY": "a list",
    "BIGINT": "a whole number",
    "BOOLEAN": "true or false",
    "DOUBLE": "a number with a fraction, an exponent, or beyond 64 bits",
    "OBJECT": "an object",
    "UBIGINT": "a whole number",
    "VARCHAR": "a text (VARCHAR)",
}


class JsonForm(Form):
    """JSON lines: an object a line, whose keys are the columns. A nullable column may be left out of a line."""

    def column_faults(self, files: Sequence[DeliveredFile]) -> Iterator[tuple[DeliveredFile, Fault]]:
        """Lines that are no objects, keys that are not declared, and kinds of values that are not."""
        # A few numbers a file come back, however many lines are strange; these are looked for in their file alone.
        filename = free_name("source_path", [column.name for column in self.source.columns])
        columns = self.source.columns
        kinds = f"json_type(json, [{', '.join(literal(_pointer(column)) for column in columns)}])"
        strange = [f"count(*) filter (kinds[{at}] not in {_allowed(column)})" for at, column in enumerate(columns, 1)]
        missing = [f"count(*) filter (kinds[{at}] is null)" for at in range(1, len(columns) + 1)]
        vanished = [f"count(*) filter ({_vanished(column, 'json')})" for column in columns]
        query = (
            "select path, count(*) filter (kind <> 'OBJECT'), "
            "count(*) filter (keys <> len(list_filter(kinds, lambda k: k is not null))), "
            f"[{', '.join(strange)}], [{', '.join(missing)}], [{', '.join(vanished)}] "
            f"from (select {quoted(filename)} as path, json, json_type(json) as kind, len(json_keys(json)) as keys, "
            f"{kinds} as kinds from read_ndjson_objects($paths, {self._options(filename)})) group by path"
        )
        for together, answer in together_or_alone(self.connection, query, files):
            if isinstance(answer, DamagedFileError):
                explained = self.explained(together[0])
                yield together[0], unreadable(DamagedFileError(explained) if explained else answer)
                continue
            found = {path: counts for path, *counts in answer}
            for file in together:
                if file.link in found:
                    yield from ((file, fault) for fault in self._faults(file, *found[file.link]))

    def groups(self, files: Sequence[DeliveredFile]) -> Mapping[str, Sequence[DeliveredFile]]:
        """All files together."""
        return {"": files} if files else {}

    def held(self, group: str) -> Mapping[str, str]:
        """Every column: what a line leaves out is NULL."""
        return {column.name: quoted(column.name) for column in self.source.columns}

    def reader(self, group: str, filename: str) -> str:
        """Every column is text."""
        columns = ", ".join(f"{literal(column.name)}: 'VARCHAR'" for column in self.source.columns)
        return f"read_json($paths, columns = {{{columns}}}, format = 'newline_delimited', {self._options(filename)})"

    def locate(self, file: DeliveredFile, column: Column, condition: str) -> Found | None:
        """The first line, by reading the file once more."""
        return self._first(file, condition, f"t::json ->> {literal(_pointer(column))}")

    def explained(self, file: DeliveredFile) -> str:
        """The first line that is no JSON, and why."""
        found = self._first(file, "not json_valid(v)")
        if found is None or found.value is None:
            return ""
        if not found.value.strip():
            return f"{found.place} is blank; leave it out"
        return f"{found.place} is no JSON ({_reason(found.value)})"

    def _faults(
        self,
        file: DeliveredFile,
        others: int,
        unlike: int,
        strange: list[int],
        missing: list[int],
        vanished: list[int],
    ) -> Iterator[Fault]:
        if others:
            found = self._first(file, "json_type(v) <> 'OBJECT'")
            yield Fault("readable", f"{found.place if found else 'a line'} is not a JSON object", DELIVER_AGAIN)
            return
        named = set()
        for fault in self._key_faults(file) if unlike else ():
            named.add(fault.column)
            yield fault
        for column, absent, odd, lost in zip(self.source.columns, missing, strange, vanished, strict=True):
            if absent and not column.nullable and column.name not in named:
                found = self._first(file, f"json_type(v, {literal(_pointer(column))}) is null")
                where = f", first in {found.place}" if found else ""
                message = f"column {column.name!r} ({column.type}) is missing in {absent:,} rows{where}"
                yield Fault("columns", message, AS_DECLARED, column.name)
            if odd:
                yield self._kind_fault(file, column, odd)
            if lost:
                yield self._vanished_fault(file, column, lost)

    def _key_faults(self, file: DeliveredFile) -> Iterator[Fault]:
        """Keys that are not declared, or come twice, in the first line that has such."""
        pointers = ", ".join(literal(_pointer(column)) for column in self.source.columns)
        known = f"len(list_filter(json_type(v, [{pointers}]), lambda k: k is not null))"
        found = self._first(file, f"len(json_keys(v)) <> {known}")
        if found is None or found.value is None:
            return
        with connect() as connection:
            (names,) = connection.execute("select json_keys($t::json)", {"t": found.value}).fetchone() or ([],)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            message = f"{found.place} names {', '.join(map(repr, repeated[:3]))} more than once"
            yield Fault("readable", message, DELIVER_AGAIN)
            return
        for fault in name_faults(self.source, names):
            yield replace(fault, message=f"{found.place}: {fault.message}")

    def _kind_fault(self, file: DeliveredFile, column: Column, rows: int) -> Fault:
        pointer = literal(_pointer(column))
        found = self._first(file, f"json_type(v, {pointer}) not in {_allowed(column)}")
        if found is None or found.value is None:
            return Fault("columns", f"column {column.name!r} is not {column.type}", AS_DECLARED, column.name)
        with connect() as connection:
            query = f"select json_type($t::json, {pointer}), json_extract($t::json, {pointer})::varchar"
            kind, value = connection.execute(query, {"t": found.value}).fetchone() or ("", "")
        message = (
            f"{found.place}, column {column.name!r}: {shortened(value)} is {_WORDS[kind]}, declared {column.type}; "
            f"{rows:,} rows have such a value"
        )
        return Fault("columns", message, AS_DECLARED, column.name)

    def _vanished_fault(self, file: DeliveredFile, column: Column, rows: int) -> Fault:
        found = self._first(file, _vanished(column, "v"))
        written = found and re.search(_written(column) + "[-+.0-9eE]*", found.value or "")
        where, value = (found.place, written[0].split(":")[-1].strip()) if found and written else ("a line", "a number")
        message = f"{where}, column {column.name!r}: {self.refusal(column, value)}; {rows:,} rows have such a value"
        return Fault("columns", message, AS_DECLARED, column.name)

    def _first(self, file: DeliveredFile, condition: str, value: str = "t") -> Found | None:
        return first_found(numbered_lines(file.path, self.limits), value, condition)

    def _options(self, filename: str) -> str:
        most = max(16_777_216, self.limits.line_bytes + 1)
        # Told, not left to the name: a question mark in the path of the home would hide its end.
        packed = f"compression = '{self.source.compression or 'uncompressed'}'"
        return f"filename = {literal(filename)}, hive_partitioning = false, maximum_object_size = {most}, {packed}"


def _reason(text: str) -> str:
    if text.startswith("\ufeff"):
        return "it begins with a byte order mark; write UTF-8 without one"
    with connect() as connection:
        try:
            connection.execute("select $t::json", {"t": text})
        except duckdb.Error as error:
            return first_line(error).split("Input: ")[0][-200:]
    return "it is malformed"


def _allowed(column: Column) -> str:
    return f"({', '.join(map(literal, (*_KINDS[column.type], 'NULL')))})"


def _written(column: Column) -> str:
    """The pattern of a number other than zero, as a line has it behind the name of the column."""
    name = re.escape(json.dumps(column.name, ensure_ascii=False))
    return rf"{name}\s*:\s*-?[0.]*[1-9]"


def _vanished(column: Column, line: str) -> str:
    """SQL of whether a line has a number so small that reading it makes zero of it, which it is not."""
    if column.type != "DOUBLE":
        return "false"
    is_zero = f"json_extract({line}, {literal(_pointer(column))})::varchar in ('0.0', '-0.0')"
    return f"{is_zero} and regexp_matches({line}::varchar, {literal(_written(column))})"


def _pointer(column: Column) -> str:
    # A JSON path knows wildcards even within quotes; a pointer takes every name.
    return "/" + column.name.replace("~", "~0").replace("/", "~1")
