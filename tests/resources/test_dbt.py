"""What dbt says of a project that works is told, once; what does not work is refused."""

import logging
import shutil
from pathlib import Path

import pytest
import yaml

from resources.dbt import PROJECT, Dbt
from resources.environment import Environment
from resources.warehouse import Warehouse

pytestmark = pytest.mark.xdist_group("dbt")

STORES = {
    "name": "stores",
    "config": {"meta": {"partitions": "none"}},
    # dbt wants arguments of a test below `arguments`, and for now takes them here too.
    "data_tests": [{"one_row_per": {"name": "stores_one_row_per_store", "columns": ["store_id"]}}],
}


def test_an_empty_layer_and_what_dbt_will_drop_are_warnings_that_are_said_once(
    environment: Environment, warehouse: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse.snapshot()
    project = tmp_path / "dbt"
    for folder in ("macros", "tests/generic"):
        shutil.copytree(PROJECT / folder, project / folder)
    shutil.copy(PROJECT / "profiles.yml", project)
    shutil.copy(PROJECT / "dbt_project.yml", project)
    marts = project / "models" / "marts" / "commerce"
    marts.mkdir(parents=True)
    declared = yaml.safe_load((PROJECT / "models" / "groups.yml").read_text()) | {"models": [STORES]}
    (marts / "stores.yml").write_text(yaml.safe_dump(declared))
    (marts / "stores.sql").write_text("{{ config(contract={'enforced': false}) }} select 1 as store_id")
    dbt = Dbt.of(environment).of_folder(project, tmp_path / "target")
    with caplog.at_level(logging.WARNING):
        assert "model.headwater.stores" in dbt.manifest()["nodes"]
    said = caplog.text
    assert "models.headwater.staging" in said
    assert "Arguments to generic" in said
    caplog.clear()
    dbt.manifest()
    assert caplog.text == ""
