"""A declaration that cannot work is refused when it is written, with what is wrong and what there is."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.source import LakeFeatures
from ml_assets.sdk.assets import project_assets
from ml_assets.sdk.declarations import Gate, Model, OneOf, Query, Search, Window
from ml_assets.sdk.trainers.lightgbm import LightGBM
from ml_assets.sdk.windows import Calendar, Reads, merged, upstream_keys
from platform_assets.partition_checker.checker import PartitionChecker
from platform_assets.partitions import offset, since
from resources.environment import Environment
from resources.feature_store.point_in_time import Feature, View
from resources.model_registry import ModelRegistry
from resources.warehouse import TableName, Warehouse
from tests.ml_assets.sdk.bakery import FACT_FEATURES, FACTS, FOLD_CALENDAR, LOAVES, SALES_CALENDAR, weekly
from tests.ml_assets.sdk.lightgbm_project import BREAD, SALES
from tests.ml_assets.sdk.sklearn_project import BUSY

HEAVY = {"torch", "lightgbm", "sklearn", "skops", "optuna", "mlflow", "matplotlib", "pandas"}
LOAD = """
import sys
from ml_assets.sdk.assets import project_assets
from tests.ml_assets.sdk.lightgbm_project import BREAD
from tests.ml_assets.sdk.sklearn_project import BUSY
project_assets(BREAD, BUSY)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def features(*given: Feature) -> LakeFeatures:
    view = View("shop", TableName.of_key(FACTS), {"shop_id": "shop_id"}, "known_at", given, ttl=timedelta(days=8))
    return LakeFeatures((view,), FACT_FEATURES.deps)


def test_an_unknown_feature_is_refused_with_the_closest_that_there_is() -> None:
    with pytest.raises(DeclarationError, match=r"unknown feature 'footfal' \(did you mean footfall\?\).*'bread'"):
        replace(BREAD, features=("footfal",))
    with pytest.raises(DeclarationError, match="unknown feature 'sold_befor'"):
        replace(BREAD, gate=Gate(beats={"last week": "sold_befor"}))


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(DeclarationError, match=r"unknown metric 'mape' \(did you mean mae\?\); there are wape, mae"):
        replace(BREAD, metric="mape")


def test_a_label_among_the_features_is_refused() -> None:
    with pytest.raises(DeclarationError, match="label 'footfall' is also a feature.*take it out"):
        replace(SALES, label="footfall")


def test_a_feature_that_is_no_number_is_refused() -> None:
    with pytest.raises(DeclarationError, match="feature 'town' is VARCHAR; encode it as a number"):
        replace(SALES, features=features(Feature("town", "town", "VARCHAR")))


def test_a_feature_of_which_nobody_says_when_it_was_known_is_refused() -> None:
    @dataclass(frozen=True)
    class Undated(LakeFeatures):
        @property
        def known_at(self) -> dict[str, str]:
            return {}

    with pytest.raises(DeclarationError, match=r"of footfall, sold_before .* no leak could be found"):
        replace(SALES, features=Undated(FACT_FEATURES.views, FACT_FEATURES.deps))


def test_a_window_must_learn_from_something_and_judge_by_something() -> None:
    with pytest.raises(DeclarationError, match="at least one training and one holdout"):
        Window(training=4, holdout=0)


def test_a_search_needs_something_before_its_first_split() -> None:
    with pytest.raises(DeclarationError, match="2 splits needs more"):
        replace(BREAD, window=Window(2), search=Search({"num_leaves": OneOf((4, 8))}, splits=2))


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(DeclarationError, match=r"share a name: commerce\.bread, commerce\.bread"):
        project_assets(BREAD, BREAD)
    with pytest.raises(DeclarationError, match="two training sets are called"):
        project_assets(BREAD, replace(BUSY, training_set=replace(BUSY.training_set, name="bread")))


def test_an_unknown_team_is_refused() -> None:
    with pytest.raises(KeyError, match="unknown team 'bakers'"):
        project_assets(replace(BREAD, training_set=replace(SALES, team="bakers")))


def test_a_table_read_by_two_windows_is_one_edge_that_spans_them() -> None:
    reads = [Reads(FACTS, SALES_CALENDAR, -3, -1), Reads(FACTS, SALES_CALENDAR, 0, 0)]
    (dep,) = merged([one.dep for one in reads])
    assert dep.partition_mapping == offset(-3, 0)
    with pytest.raises(DeclarationError, match="cannot be joined"):
        merged([reads[0].dep, dg.AssetDep(FACTS, partition_mapping=dg.LastPartitionMapping())])


def test_a_fold_reads_the_partitions_that_had_ended_when_it_began() -> None:
    weeks = upstream_keys(FOLD_CALENDAR, "2017-03-06", SALES_CALENDAR, -BREAD.window.reads, -1)
    assert (weeks[0], weeks[-1], len(weeks)) == ("2017-01-09", "2017-02-27", 8)


def specs_of(*models: Model) -> list[dg.AssetSpec]:
    assets = [one for one in project_assets(*models).assets or () if isinstance(one, dg.AssetsDefinition)]
    return [spec for asset in assets for spec in asset.specs]


def test_the_graph_is_complete_and_each_model_has_a_blocking_gate_by_fold(environment: Environment) -> None:
    resources = {
        "warehouse": Warehouse.of(environment),
        "model_registry": ModelRegistry.of(environment),
        "checker": PartitionChecker.of(environment),
    }
    graph = dg.Definitions.merge(project_assets(BREAD, BUSY), dg.Definitions(resources=resources)).resolve_asset_graph()
    assert len(specs_of(BREAD, BUSY)) == 14
    for spec in specs_of(BREAD, BUSY):
        assert spec.description
        assert spec.owners == ["team:commerce"]
        assert spec.group_name in {f"commerce_{one}" for one in (BREAD.name, BUSY.name, BREAD.training_set.name)}
        assert spec.kinds
        assert spec.automation_condition
        assert spec.code_version
    gate = graph.get(dg.AssetCheckKey(dg.AssetKey(["commerce", "bread_evaluation"]), "passes_gate"))
    assert gate.blocking
    assert gate.partitions_def == FOLD_CALENDAR


def test_what_is_not_declared_is_no_asset() -> None:
    assert [spec.key.path[-1] for spec in specs_of(replace(BREAD, batch=False))] == [
        "bread_training_set",
        "bread_candidate",
        "bread_evaluation",
        "bread_version",
        "bread_champion",
    ]
    assert "bread_monitor" not in {spec.key.path[-1] for spec in specs_of(replace(BREAD, monitor=None))}


def test_a_name_that_is_no_part_of_a_path_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"model '\.\./bread': a name is part of assets"):
        replace(BREAD, name="../bread")
    with pytest.raises(DeclarationError, match="training set 'Bread'"):
        replace(SALES, name="Bread")


def test_a_trainer_that_cannot_be_told_from_another_is_refused() -> None:
    class Anonymous(LightGBM):
        __repr__ = object.__repr__

    with pytest.raises(DeclarationError, match="Anonymous has the repr .* make it a frozen dataclass"):
        project_assets(replace(BREAD, trainer=Anonymous()))


def test_another_setting_is_another_code_version_of_what_it_decides_and_of_nothing_else() -> None:
    def versions(model: Model) -> dict[str, str | None]:
        return {spec.key.path[-1]: spec.code_version for spec in specs_of(model)}

    before, after = versions(BREAD), versions(replace(BREAD, trainer=LightGBM(rounds=41)))
    assert {name for name in before if before[name] != after[name]} == {"bread_candidate", "bread_evaluation"}
    assert versions(BREAD) == before


@pytest.mark.parametrize("project", ["lightgbm_project", "sklearn_project"])
def test_a_complete_project_is_at_most_sixty_lines(project: str) -> None:
    assert len(Path(__file__).with_name(f"{project}.py").read_text().splitlines()) <= 60


def test_declaring_a_project_imports_nothing_heavy(environment: Environment) -> None:
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        cwd=Path(__file__).parents[3],
        env=environment.variables | {"PATH": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert HEAVY.isdisjoint(loaded.stdout.split())


def labelled_by(calendar: Calendar, first: int = 0, last: int = 0) -> Query:
    return Query(SALES.labels.sql, {"baked": Reads(LOAVES, calendar, first, last)})


def live(kind: type[Calendar] = dg.WeeklyPartitionsDefinition, **more: int) -> Calendar:
    return kind(start_date="2017-01-02", timezone="America/New_York", **more)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("calendar", "labels", "words"),
    [
        (weekly("2017-01-02", "2017-05-01"), labelled_by(SALES_CALENDAR), "until 2017-04-24 .* and 2017-05-01"),
        (live(day_offset=1), labelled_by(SALES_CALENDAR), "until 2017-04-24"),
        (since("2017-01-02", live(day_offset=1), ahead=1), labelled_by(live(day_offset=1)), "and .* is needed"),
        (
            since("2017-01-02", SALES_CALENDAR, ahead=1),
            labelled_by(SALES_CALENDAR),
            "and 2017-05-01 00:00 EDT",
        ),
        (live(day_offset=1), labelled_by(live(day_offset=1), last=1), "is needed"),
        (SALES_CALENDAR, labelled_by(SALES_CALENDAR, last=3), "is needed"),
    ],
)
def test_a_training_set_that_reaches_past_its_labels_is_refused(calendar: Calendar, labels: Query, words: str) -> None:
    with pytest.raises(DeclarationError, match=f"reaches past its labels: .*loaves.* {words}"):
        replace(SALES, calendar=calendar, labels=labels)


@pytest.mark.parametrize(
    ("calendar", "labels"),
    [
        (live(day_offset=1), labelled_by(live(day_offset=1))),
        (live(day_offset=0), labelled_by(live(dg.DailyPartitionsDefinition))),
        (live(day_offset=1), labelled_by(live(dg.MonthlyPartitionsDefinition))),
        (SALES_CALENDAR, labelled_by(live(day_offset=1), last=4)),
        (SALES_CALENDAR, labelled_by(weekly("2017-01-02", "2017-04-17"), first=-2, last=-1)),
    ],
)
def test_labels_that_come_with_the_calendar_are_accepted_and_the_model_may_reach_ahead(
    calendar: Calendar, labels: Query
) -> None:
    declared = replace(SALES, calendar=calendar, labels=labels)
    replace(BREAD, training_set=declared, calendar=since("2017-03-06", SALES_CALENDAR, ahead=1))
