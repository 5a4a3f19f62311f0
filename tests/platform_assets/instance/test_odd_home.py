"""A home of any name, of a service without a home folder: a delivery goes through raw table and dbt model in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resources.environment import REPOSITORY

NAME = "it's a?b#c%41;*{x} 한"
BUILD = """
import dagster as dg
from platform_assets.definitions import defs

keys = [dg.AssetKey(["commerce", name]) for name in ("raw_products", "stg_commerce__products")]
with dg.DagsterInstance.get() as instance:
    job = defs().resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, asset_selection=keys).success
"""
HEADWATER = Path(sys.executable).with_name("headwater")


def run(home: Path, here: Path, *command: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HEADWATER_", "HOME"))}
    variables |= {"HEADWATER_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=variables, cwd=here, capture_output=True, text=True)


@pytest.mark.xdist_group("definitions")
def test_a_delivery_is_built_in_a_home_of_any_name(tmp_path: Path) -> None:
    home, here = tmp_path / "homes" / NAME, tmp_path / "here"
    here.mkdir()
    prepared = run(home, here, str(HEADWATER), "prepare")
    assert prepared.returncode == 0, prepared.stderr
    delivered = run(home, here, str(HEADWATER), "feed", "commerce/products")
    assert delivered.returncode == 0, delivered.stderr
    built = run(home, here, sys.executable, "-W", "ignore", "-c", BUILD)
    assert built.returncode == 0, built.stderr[-2_000:]
    checked = run(
        home, here, str(HEADWATER), "check", "--deep", "commerce/raw_products", "commerce/stg_commerce__products"
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "All 2 pairs are verified." in checked.stdout
    assert [path.name for path in (tmp_path / "homes").iterdir()] == [NAME]
    assert not list(here.iterdir())
