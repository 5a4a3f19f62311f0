"""What is wrong with the files that plans are written to and read from is told in one line, before anything is done."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from platform_assets.plans.command import plan, recover


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x", "is no plan"),
        (b"", "is no plan"),
        (b"\xff\xfe", "is no plan"),
        (b"[]", "this is no plan; make one with headwater plan"),
        (b"null", "this is no plan; make one with headwater plan"),
        (b'"3"', "this is no plan; make one with headwater plan"),
        (b"{}", "make the plan again"),
        (b'{"format": 3}', "make the plan again"),
        (b'{"format": 3, "pairs": 1, "runs": [[]]}', "make the plan again"),
    ],
)
def test_a_file_that_is_no_plan_is_named_with_what_to_do(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(content)
    done = CliRunner().invoke(recover, [str(file)])
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (1, True)
    assert done.output.startswith(f"Error: {file}")
    assert words in done.output
    assert done.output.count("\n") == 1


def test_a_plan_is_not_made_for_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    done = CliRunner().invoke(plan, ["--unhealthy", "-o", str(tmp_path / "nowhere" / "plan.json")])
    assert done.exit_code == 2
    assert f"there is no folder {tmp_path / 'nowhere'}; create it first" in done.output


@pytest.mark.parametrize("given", [["commerce"], ["--partitions", "2017-01-01..2017-01-02"]])
def test_what_to_heal_without_healing_is_refused(given: list[str]) -> None:
    done = CliRunner().invoke(plan, ["--changed", "commerce/baskets@2017-03-01", *given])
    assert done.exit_code == 2
    assert f"{' '.join(given)} says what to heal: add --unhealthy, or leave it out" in done.output
