"""The bytes of delivered text files: decompressed under limits, and checked to be whole, UTF-8 and well formed.

Belongs here: what can be said of CSV and JSON lines without knowing the declared columns, and the lines by their
numbers. Not here: which columns and values are right (`csv_files.py`, `json_files.py`, `values.py`).

No more than one line and one chunk of a file are ever in memory, whatever it expands to.
"""

import csv
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.environment import Limits

_CHUNK_BYTES = 1 << 20
# Small pieces: each member of a gzip file copies the rest of its piece.
_COMPRESSED_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'


class DamagedFileError(ValueError):
    """A file that cannot be read as what it is; the message says why, in which line, and what to do about it."""


def decoded(file: Path, limits: Limits) -> Iterator[bytes]:
    """The content of a file, `.gz` decompressed, in chunks of 1 MiB at most (less, if a line must be shorter).

    Raises:
        DamagedFileError: it is no intact gzip, ends early, or holds more than `limits` allow.
    """
    held = 0
    for chunk in _decompressed(file, limits) if file.suffix == ".gz" else _chunks(file, _chunk_bytes(limits)):
        held += len(chunk)
        if held > limits.file_bytes:
            raise DamagedFileError(
                f"it holds more than {limits.file_bytes:,} bytes once it is decompressed; deliver it in smaller files, "
                "or raise HEADWATER_LARGEST_FILE"
            )
        yield chunk


def count_csv_rows(file: Path, limits: Limits) -> int:
    """Rows below the header of a CSV file as RFC 4180 has it, after making sure that it is one.

    Quoted line breaks belong to their row. Every row has as many values as the header; a blank line is a row of
    none, and has no place but in a file of one column.

    Raises:
        DamagedFileError: the first line that is not well formed, and how.
    """
    reading = _CsvReading(file, limits)
    for block in _blocks(file, limits):
        reading.read(block)
    return reading.finished()


def count_json_lines(file: Path, limits: Limits) -> int:
    """Lines of a file, after making sure that they are text.

    Raises:
        DamagedFileError: the first line that is not, and why.
    """
    lines = 0
    for block in _blocks(file, limits):
        _refuse_what_is_no_text(block, lines)
        lines += block.count(b"\n")
    return lines


def numbered_lines(file: Path, limits: Limits) -> Iterator[tuple[int, str]]:
    """The lines of a well formed file and their numbers, from 1."""
    lines = (line for block in _blocks(file, limits) for line in io.BytesIO(block))
    for number, line in enumerate(lines, start=1):
        yield number, line.decode()[:-1]


def numbered_records(file: Path, limits: Limits) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file, the header first, and the numbers of the lines in which they begin."""
    lines = (line.decode() for block in _blocks(file, limits) for line in io.BytesIO(block))
    reader = csv.reader(lines, strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), limits.line_bytes))
    number = 1
    for record in reader:
        yield number, record
        number += 1 + sum(value.count("\n") for value in record)


def uneven_record(file: Path, limits: Limits) -> str:
    """Which record of a CSV file has another number of values than the header, in words; empty if none has."""
    fields = 0
    for line, record in numbered_records(file, limits):
        fields = fields or len(record)
        if not record and fields > 1:
            return f"line {line} is blank; leave it out"
        if len(record or [""]) != fields:
            return f"line {line} has {len(record)} values, the header names {fields} columns; quote values with commas"
    return ""


class _CsvReading:
    """One reading of a CSV file: what must be remembered from one block of whole lines to the next."""

    def __init__(self, file: Path, limits: Limits) -> None:
        self._file, self._limits = file, limits
        self._lines = 0  # line breaks of earlier blocks, quoted ones too
        self._quoted = False  # whether the next block begins within quotes
        self._quote_line = 0  # the line in which they begin
        self._row_line, self._row_bytes = 1, 0  # where the row begins that has not ended yet, and its size so far
        self._rows = self._commas = self._header_commas = 0
        self._returns: bool | None = None  # whether lines end in CR LF, by the first of them

    def read(self, block: bytes) -> None:
        _refuse_what_is_no_text(block, self._lines)
        lines = block.count(b"\n")
        if b'"' in block or b"\r" in block or self._returns:
            self._read_bytes(np.frombuffer(block, np.uint8))
        elif self._quoted:
            self._add_to_row(len(block))
        else:
            if not self._rows:
                self._header_commas, self._returns = block.count(b",", 0, block.index(b"\n")), False
            self._rows += lines
            self._commas += int(np.count_nonzero(np.frombuffer(block, np.uint8) == _COMMA))
            self._row_line = self._lines + lines + 1
        self._lines += lines

    def finished(self) -> int:
        if self._quoted:
            raise DamagedFileError(f"line {self._quote_line}: a quote opens there and is never closed")
        if not self._rows:
            raise DamagedFileError("it is empty, even its header is missing")
        if self._commas != self._header_commas * self._rows:
            raise DamagedFileError(uneven_record(self._file, self._limits))
        return self._rows - 1

    def _read_bytes(self, data: NDArray[np.uint8]) -> None:
        quotes = data == _QUOTE
        inside = np.logical_xor.accumulate(quotes) ^ self._quoted
        self._refuse_misplaced_quotes(data, np.flatnonzero(quotes))
        ends = np.flatnonzero((data == _NEWLINE) & ~inside)
        self._refuse_mixed_line_ends(data, inside, ends)
        commas = (data == _COMMA) & ~inside
        if len(ends):
            self._add_to_row(int(ends[0]))
            if not self._rows:
                self._header_commas = int(np.count_nonzero(commas[: ends[0]]))
            self._row_line, self._row_bytes = self._line(data, int(ends[-1])) + 1, 0
        self._rows += len(ends)
        self._commas += int(np.count_nonzero(commas))
        self._quoted = bool(inside[-1])
        self._add_to_row(len(data) - (int(ends[-1]) + 1 if len(ends) else 0))

    def _refuse_misplaced_quotes(self, data: NDArray[np.uint8], quotes: NDArray[np.intp]) -> None:
        opening, closing = quotes[int(self._quoted) :: 2], quotes[1 - int(self._quoted) :: 2]
        first = opening[:1] == 0
        before = data[np.maximum(opening - 1, 0)]
        before[:1][first] = _NEWLINE
        bad = opening[~np.isin(before, (_COMMA, _NEWLINE, _QUOTE))]
        unclosed = np.flatnonzero(~np.isin(data[closing + 1], (_COMMA, _NEWLINE, _RETURN, _QUOTE)))
        if len(unclosed) and not (len(bad) and bad[0] < closing[unclosed[0]]):
            index = 2 * int(unclosed[0]) + 1 - int(self._quoted)  # of the closing quote among all
            begin = self._line(data, int(quotes[index - 1])) if index else self._quote_line
            line = self._line(data, int(quotes[index]))
            raise DamagedFileError(
                f"line {begin}: a quote opens there, and text follows the next one, in line {line}; "
                'close each quote, and write a quote within quotes twice ("")'
            )
        if len(bad):
            raise DamagedFileError(
                f"line {self._line(data, int(bad[0]))}: a quote stands within a value that does not begin with one; "
                'put the whole value in quotes, and write the quote within twice ("")'
            )
        if len(quotes):
            self._quote_line = self._line(data, int(quotes[-1]))

    def _refuse_mixed_line_ends(
        self,
        data: NDArray[np.uint8],
        inside: NDArray[np.bool_],
        ends: NDArray[np.intp],
    ) -> None:
        returns = (data == _RETURN) & ~inside
        stray = np.flatnonzero(returns[:-1] & (data[1:] != _NEWLINE))
        if len(stray):
            raise DamagedFileError(
                f"line {self._line(data, int(stray[0]))}: a carriage return (CR) stands there without a line feed; "
                "end all lines with LF, and quote values that hold a CR"
            )
        with_return = returns[ends - 1] & (ends > 0)
        if self._returns is None and len(ends):
            self._returns = bool(with_return[0])
        other = ends[with_return != self._returns]
        if len(other):
            found, before = ("LF", "CRLF") if self._returns else ("CRLF", "LF")
            raise DamagedFileError(
                f"line {self._line(data, int(other[0]))} ends in {found}, the lines before it in {before}; "
                "end all lines alike"
            )

    def _line(self, data: NDArray[np.uint8], position: int) -> int:
        return self._lines + int(np.count_nonzero(data[:position] == _NEWLINE)) + 1

    def _add_to_row(self, size: int) -> None:
        self._row_bytes += size
        if self._row_bytes > self._limits.line_bytes:
            raise DamagedFileError(
                f"line {self._row_line}: the row that begins there is longer than {self._limits.line_bytes:,} bytes; "
                "close its quotes, or raise HEADWATER_LONGEST_LINE"
            )


def _refuse_what_is_no_text(block: bytes, lines: int) -> None:
    if (nul := block.find(b"\0")) >= 0:
        line = lines + block.count(b"\n", 0, nul) + 1
        raise DamagedFileError(f"line {line} holds a NUL byte: it is no text, or was written only in part")
    if block.isascii():
        return
    try:
        block.decode()
    except UnicodeDecodeError as error:
        line = lines + block.count(b"\n", 0, error.start) + 1
        raise DamagedFileError(
            f"line {line} is not UTF-8 (byte 0x{block[error.start]:02X}); write the file as UTF-8, not as Latin-1, say"
        ) from error


def _blocks(file: Path, limits: Limits) -> Iterator[bytes]:
    """The file in blocks of whole lines, without a byte order mark at its begin.

    Raises:
        DamagedFileError: a line is longer than `limits` allow, or the last one has no end.
    """
    lines, rest, mark = 0, b"", _BYTE_ORDER_MARK if ".csv" in file.suffixes else b""
    for chunk in decoded(file, limits):
        block = rest + chunk
        if mark and len(block) >= len(mark):
            block, mark = block.removeprefix(mark), b""
        end = block.rfind(b"\n") + 1
        # A chunk is no longer than a line may be, so that only the first line of a block can be too long.
        if (block.find(b"\n") if end else len(block)) > limits.line_bytes:
            raise DamagedFileError(
                f"line {lines + 1} is longer than {limits.line_bytes:,} bytes; "
                "write one row a line, or raise HEADWATER_LONGEST_LINE"
            )
        if end:
            yield block[:end]
            lines += block.count(b"\n")
        rest = block[end:]
    if rest:
        raise DamagedFileError(f"line {lines + 1}, its last line, has no line break: it was cut off")


def _chunk_bytes(limits: Limits) -> int:
    return min(_CHUNK_BYTES, limits.line_bytes)


def _decompressed(file: Path, limits: Limits) -> Iterator[bytes]:
    # DuckDB takes a gzip stream that ends early for a short file, so its end is checked here.
    decoder = zlib.decompressobj(wbits=31)
    try:
        for piece in _chunks(file, _COMPRESSED_BYTES):
            pending = piece
            while pending:
                if decoder.eof:
                    decoder = zlib.decompressobj(wbits=31)
                if content := decoder.decompress(pending, _chunk_bytes(limits)):
                    yield content
                pending = decoder.unconsumed_tail or decoder.unused_data
        while not decoder.eof and (content := decoder.decompress(b"", _chunk_bytes(limits))):
            yield content
    except zlib.error as error:
        raise DamagedFileError(f"it is not intact gzip ({error})") from error
    if not decoder.eof:
        raise DamagedFileError("its gzip stream ends early: it was cut off")


def _chunks(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(size):
            yield chunk
