"""Whatever keeps a command from working is told in one line that names the setting or file, and what to do."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from platform_assets.cli import COMMANDS, main
from resources.environment import REPOSITORY, Environment

NOBODY = "postgresql://someone@127.0.0.1:9/nowhere"


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """The command line sets variables and a signal handler, as its process is its own."""
    variables, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    os.environ.clear()
    os.environ.update(variables)


def told(result: Result) -> str:
    """The one line that a command failed with, after what it told of its progress."""
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    *progress, line = result.stderr.splitlines()
    assert all(re.match(r" *\d+:\d\d ", told) for told in progress), result.stderr
    return line


@pytest.mark.parametrize(
    "command",
    [
        ["prepare"],
        ["up"],
        ["demo"],
        ["check"],
        ["explain", "commerce/baskets@2017-01-02"],
        ["plan", "--unhealthy"],
        ["feed", "commerce/households"],
    ],
)
def test_a_home_that_cannot_be_written_is_named_by_every_command(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "file" / "home"))
    line = told(CliRunner().invoke(main, command))
    assert str(tmp_path / "file" / "home") in line
    assert "cannot be written" in line
    assert "HEADWATER_HOME" in line


@pytest.mark.parametrize("command", [["prepare"], ["check"]])
@pytest.mark.parametrize("setting", ["HEADWATER_CATALOG", "HEADWATER_DAGSTER_STORAGE"])
def test_a_database_that_does_not_answer_is_named_with_its_setting(
    command: list[str], setting: str, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, NOBODY)
    line = told(CliRunner().invoke(main, command))
    assert setting in line
    assert "127.0.0.1" in line
    assert "onnection refused" in line


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code, to break."""
    root = tmp_path / "code"
    for folder in ("resources", "platform_assets", "ml_assets", "dbt"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "target"))
    shutil.copy(REPOSITORY / "workspace.yaml", root)
    return root


def prepared(root: Path, environment: Environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from platform_assets.cli import main; main()", "prepare"],
        env={**os.environ, "PYTHONWARNINGS": "ignore", "HEADWATER_HOME": str(environment.home)},
        cwd=root,
        capture_output=True,
        text=True,
    )


def test_prepare_fails_by_the_location_that_does_not_load_and_is_ready_once_it_does(
    code: Path, environment: Environment
) -> None:
    definitions = code / "ml_assets" / "features" / "catalogue.py"
    whole = definitions.read_text()
    definitions.write_text(whole + "\nraise ValueError('no feature is called\\nthat')\n")
    failed = prepared(code, environment)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert (
        "code location ml_assets (ml_assets.definitions) does not load: ValueError: no feature is called that" in line
    )
    assert f"ml_assets/features/catalogue.py:{len(whole.splitlines()) + 2}" in line
    assert "ready" not in failed.stdout

    definitions.write_text(whole)
    ready = prepared(code, environment)
    assert (ready.returncode, ready.stdout) == (0, f"ready: {environment.home}\n"), ready.stderr


def test_a_dbt_project_that_does_not_compile_is_told_in_dbts_words(code: Path, environment: Environment) -> None:
    model = next(iter(sorted((code / "dbt" / "models" / "marts").rglob("*.sql"))))
    model.write_text("select * from {{ ref('no_such_model') }}")
    failed = prepared(code, environment)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert f"dbt cannot compile {code / 'dbt'}" in line
    assert "no_such_model" in line
    assert str(environment.dbt_target / "dbt.log") in line


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    said = CliRunner().invoke(main, ["--help"], terminal_width=300).output
    for place in entry_points(group=COMMANDS):
        line = f"{place.name} {place.load().get_short_help_str(200)}"
        assert line in [" ".join(told.split()) for told in said.splitlines()]


def test_a_command_that_two_packages_name_is_refused_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    own = list(entry_points(group=COMMANDS))
    other = EntryPoint("check", "somewhere.else:check", COMMANDS)
    monkeypatch.setattr("platform_assets.cli.entry_points", lambda group: [*own, other])
    assert told(CliRunner().invoke(main, ["--help"])) == (
        "Error: command 'check' is both platform_assets.partition_checker.command:check and somewhere.else:check: "
        "remove one"
    )


def test_help_imports_neither_orchestrator_nor_engine() -> None:
    """It answered after four seconds."""
    code = (
        "import sys\nfrom platform_assets.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'dagster', 'dagster_dbt', 'duckdb', 'pyarrow', 'numpy', 'sqlalchemy', 'rich'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (place.name for place in entry_points(group=COMMANDS)))
