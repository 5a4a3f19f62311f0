"""Lineage and code versions are worked out once and kept."""

from pathlib import Path

import pytest

from platform_assets.dbt_models import analysis
from platform_assets.dbt_models.analysis import Analysis, analyse, cached_analysis
from tests.platform_assets.dbt_models.shop import RAW, SOURCES, manifest, stored, table

BEFORE = stored("sales", 'select id from "lake"."shop"."raw_sales"')
AFTER = stored("sales", 'select qty as id from "lake"."shop"."raw_sales"')
SALES = table("sales")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was analysed."""
    found: list[object] = []
    monkeypatch.setattr(analysis, "analyse", lambda *given: found.append(given) or analyse(*given))
    return found


def test_the_analysis_is_made_once_until_a_model_changes(tmp_path: Path, calls: list[object]) -> None:
    cache = tmp_path / "analysis.json"
    seen: list[Analysis] = []
    for model, column, times in [(BEFORE, "id", 1), (BEFORE, "id", 1), (AFTER, "qty", 2), (AFTER, "qty", 2)]:
        seen.append(cached_analysis(cache, manifest(model), SOURCES))
        assert seen[-1].lineage[SALES].columns == {"id": ((RAW, column),)}
        assert seen[-1] == analyse(manifest(model), SOURCES)
        assert len(calls) == times
    assert seen[0].code_versions[SALES] != seen[-1].code_versions[SALES]


@pytest.mark.parametrize(
    "change",
    [
        {"config": {**BEFORE["config"], "meta": {"partitions": "weekly"}}},
        {"raw_code": "select id from {{ window_of(source('shop', 'raw_sales')) }}"},
    ],
)
def test_config_and_windows_make_it_anew(tmp_path: Path, calls: list[object], change: dict) -> None:
    cache = tmp_path / "analysis.json"
    before = cached_analysis(cache, manifest(BEFORE), SOURCES)
    after = cached_analysis(cache, manifest(BEFORE | change), SOURCES)
    assert len(calls) == 2
    assert before.code_versions != after.code_versions


def test_another_release_of_sqlglot_or_another_source_makes_it_anew(
    tmp_path: Path, calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "analysis.json"
    cached_analysis(cache, manifest(BEFORE), SOURCES)
    cached_analysis(cache, manifest(BEFORE), {RAW: {**SOURCES[RAW], "more": "BIGINT"}})
    monkeypatch.setattr(analysis, "version", lambda package: "1.0")
    cached_analysis(cache, manifest(BEFORE), SOURCES)
    assert len(calls) == 3


def test_a_damaged_file_is_replaced(tmp_path: Path, calls: list[object]) -> None:
    cache = tmp_path / "analysis.json"
    cached_analysis(cache, manifest(BEFORE), SOURCES)
    cache.write_text("cut o")
    assert cached_analysis(cache, manifest(BEFORE), SOURCES) == cached_analysis(cache, manifest(BEFORE), SOURCES)
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["analysis.json"]
