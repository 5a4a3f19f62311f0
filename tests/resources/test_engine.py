"""No connection of ours draws a progress bar, in whatever process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resources.environment import REPOSITORY

ASK = """
from resources.{module} import connect
print(connect().execute("select current_setting('enable_progress_bar')").fetchone())
"""


@pytest.mark.parametrize(("module", "drawn"), [("engine", "(False,)"), ("", "(True,)")])
def test_a_process_without_a_main_file_draws_none(module: str, drawn: str) -> None:
    ask = ASK.format(module=module) if module else ASK.replace("resources.{module}", "duckdb")
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert said.stdout.strip() == drawn, "without ours DuckDB would draw them here: the test shows the difference"


def test_every_connection_is_made_there_and_dbt_is_told_too() -> None:
    made = re.compile(r"\bduckdb\.connect\(")
    files = [path for folder in ("resources", "platform_assets", "ml_assets") for path in _python(folder)]
    assert [path.name for path in files if made.search(path.read_text())] == ["engine.py"]
    profile = yaml.safe_load((REPOSITORY / "dbt" / "profiles.yml").read_text())
    assert profile["headwater"]["outputs"]["lake"]["settings"] == {"enable_progress_bar": "false"}


def _python(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))
