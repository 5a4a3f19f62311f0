"""Reading CSV files: columns by the header, values as text.

Belongs here: what is special to CSV. Not here: the bytes (`text_files.py`), and what a text must look like
(`values.py`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from platform_assets.sources.declaration import Column
from platform_assets.sources.forms import (
    DELIVER_AGAIN,
    DeliveredFile,
    Fault,
    Form,
    Found,
    first_found,
    name_faults,
)
from platform_assets.sources.text_files import numbered_records, uneven_record
from resources.engine import literal

Header = tuple[str, ...]


class CsvForm(Form):
    """CSV files with a header; columns may come in any order, and files with one header are read together."""

    def column_faults(self, files: Sequence[DeliveredFile]) -> Iterator[tuple[DeliveredFile, Fault]]:
        """What is wrong with the headers."""
        for file in files:
            names = self._header(file)
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                message = f"its header names {', '.join(map(repr, repeated))} more than once"
                yield file, Fault("readable", message, DELIVER_AGAIN)
            else:
                yield from ((file, fault) for fault in name_faults(self.source, names))

    def groups(self, files: Sequence[DeliveredFile]) -> Mapping[Header, Sequence[DeliveredFile]]:
        """The files by header."""
        found: dict[Header, list[DeliveredFile]] = defaultdict(list)
        for file in files:
            found[self._header(file)].append(file)
        return found

    def held(self, group: Header) -> Mapping[str, str]:
        """The columns that a header names."""
        return {name: f"c{at}" for at, name in enumerate(group)}

    def reader(self, group: Header, filename: str) -> str:
        """Every column is text, and goes by its place in the header."""
        columns = ", ".join(f"c{at}: 'VARCHAR'" for at in range(len(group)))
        line_bytes = self.limits.line_bytes
        # DuckDB tells by the name, and takes what follows a question mark in the path of the home for no part of it.
        compression = self.source.compression or "none"
        return (
            f"read_csv($paths, columns = {{{columns}}}, filename = {literal(filename)}, hive_partitioning = false, "
            "header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', strict_mode = true, "
            f"compression = '{compression}', max_line_size = {line_bytes + 1}, "
            f"buffer_size = {max(32_000_000, 2 * line_bytes)})"
        )

    def locate(self, file: DeliveredFile, column: Column, condition: str) -> Found | None:
        """The first line, by reading the file once more."""
        records = numbered_records(file.path, self.limits)
        _, header = next(records)
        if column.name not in header:
            return None
        at = header.index(column.name)
        # DuckDB reads an empty value as NULL, and so a blank line of a file with one column.
        return first_found(((line, (record or [""])[at] or None) for line, record in records), "t", condition)

    def explained(self, file: DeliveredFile) -> str:
        """The first line that has not as many values as the header."""
        return uneven_record(file.path, self.limits)

    def _header(self, file: DeliveredFile) -> Header:
        _, header = next(numbered_records(file.path, self.limits))
        return tuple(header or [""])
