"""The bytes of text files, against Python's own CSV reader."""

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from platform_assets.sources.text_files import (
    DamagedFileError,
    count_csv_rows,
    count_json_lines,
    numbered_lines,
    numbered_records,
)
from resources.environment import DEFAULT_LIMITS, Limits

SMALL = Limits(line_bytes=64, file_bytes=4000, page_bytes=1000)
RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def csv_rows(folder: Path, content: bytes, limits: Limits = DEFAULT_LIMITS, name: str = "part.csv") -> int:
    file = folder / name
    file.write_bytes(content)
    return count_csv_rows(file, limits)


VALUES = st.text(st.sampled_from('ab",\n\ré '), max_size=6)


@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
@RELAXED
def test_rows_are_counted_as_they_were_written_whatever_is_quoted(
    tmp_path: Path, rows: list[list[str]], end: str, quoted: bool
) -> None:
    out = io.StringIO()
    # Python's writer does not put a CR in quotes by itself.
    quoted = quoted or any("\r" in value for row in rows for value in row)
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([["x", "y"], *rows])
    assert csv_rows(tmp_path, out.getvalue().encode()) == len(rows)
    assert csv_rows(tmp_path, b"\xef\xbb\xbf" + out.getvalue().encode()) == len(rows)
    # Blocks that end within a quoted value, or anywhere else.
    assert csv_rows(tmp_path, out.getvalue().encode(), Limits(line_bytes=100)) == len(rows)
    records = list(numbered_records(tmp_path / "part.csv", DEFAULT_LIMITS))
    assert [record for _, record in records] == [["x", "y"], *rows]
    lines = out.getvalue().split("\n")
    for number, record in records:
        assert lines[number - 1].lstrip('"').startswith(record[0].split("\n")[0].split('"')[0])


@given(st.text(st.sampled_from('ab",\n\r'), max_size=25))
@example('1,"x"y')
@example('1, "x"')
@example('1,x"y')
@example('1,"x" ')
@example("1,2,")
@example("1")
@example("")
@example('\n,""",""",')
@RELAXED
def test_what_a_strict_reader_does_not_take_is_refused_by_its_line(tmp_path: Path, body: str) -> None:
    content = f"x,y\n{body}\n"
    values = _values_by_row(content)
    if values is None or sum(values) != 2 * len(values):
        with pytest.raises(DamagedFileError, match=r"line \d"):
            csv_rows(tmp_path, content.encode())
    else:
        # Too many values in one row and too few in another are left to the reading: DuckDB refuses the former.
        assert csv_rows(tmp_path, content.encode()) == len(values) - 1


def _values_by_row(content: str) -> list[int] | None:
    """How many values each row has by RFC 4180, with LF, character by character; None if `content` breaks it."""
    rows, values, at = [], 1, 0
    while at < len(content):
        if content[at] == '"':
            at += 1
            while content[at : at + 1] != '"' or content[at : at + 2] == '""':
                if at >= len(content):
                    return None
                at += 2 if content[at : at + 2] == '""' else 1
            at += 1
        else:
            while content[at] not in ',\n"\r':
                at += 1
        if content[at : at + 1] == "\n":
            rows.append(values)
            values = 1
        elif content[at : at + 1] == ",":
            values += 1
        else:
            return None
        at += 1
    return rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n1,x\n2,"y\n3,z\n', "line 3: a quote opens there and is never closed"),
        (b'a,b\n1,"x\n2,"y"\n', "line 2: a quote opens there, and text follows the next one, in line 3"),
        (b'a,b\n1,x"y\n', "line 2: a quote stands within a value"),
        (b"a,b\n1,x\r\n2,y\n", "line 2 ends in CRLF, the lines before it in LF; end all lines alike"),
        (b"a,b\r\n1,x\r\n2,y\n", "line 3 ends in LF, the lines before it in CRLF"),
        (b"a,b\n1,x\ry\n", "line 2: a carriage return (CR) stands there without a line feed"),
        (b"a,b\n1,caf\xe9\n", "line 2 is not UTF-8 (byte 0xE9); write the file as UTF-8"),
        (b"a,b\n1,x\n2,\x00\n", "line 3 holds a NUL byte"),
        (b"a,b\n1,x\n2\n", "line 3 has 1 values, the header names 2 columns"),
        (b"a,b\n1,x,\n", "line 2 has 3 values"),
        (b'a,b\n"1\n2",x\n\n3,y\n', "line 4 is blank"),
        (b"", "even its header is missing"),
        (b"a,b\n1,x", "line 2, its last line, has no line break"),
        (b"a,b\n1,x\n2," + b"y" * 70 + b"\n", "line 3 is longer than 64 bytes"),
        (b'a,b\n1,"' + b"y\n" * 70 + b'"\n', "line 2: the row that begins there is longer than 64 bytes"),
    ],
)
def test_the_cause_and_the_line_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DamagedFileError) as refused:
        csv_rows(tmp_path, content, SMALL)
    assert message in str(refused.value)
    with pytest.raises(DamagedFileError) as refused:
        csv_rows(tmp_path, gzip.compress(content), SMALL, "part.csv.gz")
    assert message in str(refused.value)


def test_a_file_of_one_column_may_have_empty_values(tmp_path: Path) -> None:
    assert csv_rows(tmp_path, b"a\n1\n\n2\n") == 3


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.integers(1, 9))
@RELAXED
def test_gzip_of_several_members_is_decoded_whole(tmp_path: Path, members: list[bytes], level: int) -> None:
    content = b"".join(members).replace(b"\0", b"").decode("latin-1").encode() + b"\n"
    parts = [content[: len(content) // 2], b"", content[len(content) // 2 :]]
    file = tmp_path / "part.jsonl.gz"
    file.write_bytes(b"".join(gzip.compress(part, level) for part in parts))
    for limits in (DEFAULT_LIMITS, Limits(line_bytes=2001)):
        assert count_json_lines(file, limits) == content.count(b"\n")
        assert "\n".join(line for _, line in numbered_lines(file, limits)) + "\n" == content.decode()


@pytest.mark.parametrize("suffix", ["csv.gz", "jsonl.gz"])
def test_a_gzip_file_that_expands_beyond_the_limit_is_refused_by_the_setting(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"part.{suffix}"
    read = count_csv_rows if "csv" in suffix else count_json_lines
    file.write_bytes(gzip.compress(b"a\n" * 3000))
    with pytest.raises(DamagedFileError, match=r"more than 4,000 bytes .* HEADWATER_LARGEST_FILE"):
        read(file, SMALL)
    file.write_bytes(gzip.compress(b"a" * 3000))
    with pytest.raises(DamagedFileError, match="line 1 is longer than 64 bytes.*HEADWATER_LONGEST_LINE"):
        read(file, SMALL)


def test_a_stream_whose_end_is_cut_off_is_damaged_even_if_all_of_its_content_is_there(tmp_path: Path) -> None:
    file = tmp_path / "part.jsonl.gz"
    whole = gzip.compress(b"{}\n" * 1_000_000)
    for cut in (1, 8, 9, 20):
        file.write_bytes(whole[:-cut])
        with pytest.raises(DamagedFileError):
            count_json_lines(file, DEFAULT_LIMITS)
    file.write_bytes(whole)
    assert count_json_lines(file, DEFAULT_LIMITS) == 1_000_000
