"""Two declarations go through a real lake, a real MLflow and real runs, from entity rows to what is watched."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.source import LakeFeatures
from ml_assets.sdk import champion
from ml_assets.sdk.champion import ChampionError
from ml_assets.sdk.declarations import Gate, Model
from ml_assets.sdk.serving import Scorer
from ml_assets.sdk.tables import ProjectTables
from ml_assets.sdk.trainers.lightgbm import LightGBM
from ml_assets.sdk.trainers.trainer import Checkpoint
from platform_assets.automation import CUT_OFF
from resources.model_registry import RegistryError
from resources.warehouse import TableName
from tests.ml_assets.sdk.bakery import (
    FACT_FEATURES,
    FACTS,
    FOLDS,
    LOAVES,
    WEEKS,
    Bakery,
    facts,
    failures,
    loaves,
    weeks_from,
)
from tests.ml_assets.sdk.lightgbm_project import BREAD, SALES
from tests.ml_assets.sdk.sklearn_project import BUSY

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.xdist_group("bakery"),
]

BREAD_KEYS, BUSY_KEYS = ProjectTables(BREAD), ProjectTables(BUSY)
NEXT = weeks_from(FOLDS[-1], 2)[1]
"""A fold that the backtest leaves to the tests that see one refused."""


@pytest.fixture(scope="module")
def backtest(bakery: Bakery) -> dg.ExecuteInProcessResult:
    result = bakery.train(BREAD, FOLDS)
    assert result.success, failures(result)
    return result


@pytest.fixture(scope="module")
def busy_backtest(bakery: Bakery) -> dg.ExecuteInProcessResult:
    result = bakery.train(BUSY, FOLDS[:2])
    assert result.success, failures(result)
    return result


def metadata(bakery: Bakery, key: dg.AssetKey, week: str) -> dict[str, Any]:
    """What the web UI shows of the newest materialization of a pair."""
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[week])
    (record,) = bakery.instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    return {name: entry.value for name, entry in record.asset_materialization.metadata.items()}


def digest(bakery: Bakery, model: Model, week: str) -> str:
    return bakery.registry.candidate(model.registered_name, week).digest


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str | None, bool]:
    return {one.partition: one.passed for one in result.get_asset_check_evaluations()}


def refused_checks(result: dg.ExecuteInProcessResult) -> str:
    return " ".join(str(one.description) for one in result.get_asset_check_evaluations() if not one.passed)


def test_every_fold_passes_its_gate_and_is_registered_promoted_and_predicted(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult
) -> None:
    assert verdicts(backtest) == dict.fromkeys(FOLDS, True)
    for week in FOLDS:
        (decision,) = bakery.rows(BREAD_KEYS.champion, week)
        assert (decision["version_of"], decision["action"]) == (week, "promoted")
        predicted = bakery.rows(BREAD_KEYS.predictions, week)
        assert len(predicted) == 120
        assert {row["model_digest"] for row in predicted} == {digest(bakery, BREAD, week)}
    errors = {row["method"]: row["error"] for row in bakery.rows(BREAD_KEYS.evaluation, FOLDS[-1])}
    assert errors.keys() == {"candidate", "last week", "champion"}
    assert errors["candidate"] < 0.5 * errors["last week"]


def test_a_run_in_mlflow_has_what_is_needed_to_make_it_again_and_to_judge_it(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult
) -> None:
    from mlflow import MlflowClient

    shown = metadata(bakery, BREAD_KEYS.candidate, FOLDS[-1])
    run = MlflowClient(tracking_uri=bakery.registry.uri).get_run(shown["MLflow run id"])
    folder = bakery.registry.file(run.info.run_id).parents[1]
    assert shown["MLflow run"] == folder.as_uri()
    assert run.data.tags["dagster_run_id"] == backtest.run_id
    assert run.data.params["learning_rate"] == "0.2"
    assert run.data.metrics["wape"] < run.data.metrics["baseline_last_week"]
    assert (folder / "features.txt").read_text().split() == ["footfall", "sold_before"]
    receipts = json.loads((folder / "receipts.json").read_text())
    assert receipts["receipt"] == run.data.tags["receipt"] == shown["receipt"]
    assert [one["partition"] for one in receipts["read"]] == weeks_from("2017-01-23", 8)
    assert {one["name"] for one in json.loads((folder / "model/signature.json").read_text())["inputs"]} == {
        "footfall",
        "sold_before",
    }
    for name in ("importance", "calibration", "errors"):
        assert (folder / f"plots/{name}.png").read_bytes().startswith(b"\x89PNG")
    card = (folder / "model_card.md").read_text()
    assert run.data.tags["mlflow.note.content"] == card
    assert receipts["read"][0]["id"] in card
    assert "| last week |" in card
    assert "Gate: passed" in card


def test_a_project_on_scikit_learn_searches_in_each_fold_and_shows_its_trials(
    bakery: Bakery, busy_backtest: dg.ExecuteInProcessResult
) -> None:
    from mlflow import MlflowClient

    client, shown = MlflowClient(tracking_uri=bakery.registry.uri), metadata(bakery, BUSY_KEYS.candidate, FOLDS[0])
    experiment = client.get_experiment_by_name(BUSY.registered_name)
    assert experiment is not None
    mine = f"tags.`mlflow.parentRunId` = '{shown['MLflow run id']}'"
    trials = client.search_runs([experiment.experiment_id], mine)
    best = min(trials, key=lambda run: run.data.metrics["log_loss"])
    assert len(trials) == len(shown["trials"].records if hasattr(shown["trials"], "records") else shown["trials"]) == 4
    assert float(best.data.params["C"]) == pytest.approx(shown["parameters"]["C"])
    predicted = [row["prediction"] for row in bakery.rows(BUSY_KEYS.predictions, FOLDS[1])]
    assert 0 <= min(predicted) < 0.1 < 0.9 < max(predicted) <= 1


def test_predictions_are_watched_once_their_labels_are_there(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult
) -> None:
    result = bakery.build(FOLDS, BREAD_KEYS.monitor)
    assert result.success, failures(result)
    assert verdicts(result) == dict.fromkeys(FOLDS, True)
    readings = {row["subject"]: row for row in bakery.rows(BREAD_KEYS.monitor, FOLDS[-1])}
    assert readings.keys() == {"footfall", "sold_before", "sold", "prediction", "wape"}
    assert 0 < readings["wape"]["value"] < readings["wape"]["limit_value"]
    assert 0 < readings["prediction"]["value"] < readings["prediction"]["limit_value"]
    first = {row["subject"]: row for row in bakery.rows(BREAD_KEYS.monitor, FOLDS[0])}
    assert first["prediction"]["value"] is None
    assert first["prediction"]["why"].startswith("0 rows before and 120 now")


def test_unchanged_folds_are_reused_by_their_receipts(bakery: Bakery, backtest: dg.ExecuteInProcessResult) -> None:
    before = {key: bakery.checksums(key) for key in (BREAD_KEYS.evaluation, BREAD_KEYS.predictions)}
    assert bakery.train(BREAD, FOLDS, tags={CUT_OFF: "true"}).success
    for key in (BREAD_KEYS.candidate, BREAD_KEYS.evaluation, BREAD_KEYS.predictions):
        assert metadata(bakery, key, FOLDS[0])["computed"].startswith("no")
    assert {key: bakery.checksums(key) for key in before} == before


def test_the_same_receipts_give_the_same_bytes_again(bakery: Bakery, backtest: dg.ExecuteInProcessResult) -> None:
    week, keys = FOLDS[1], (BREAD_KEYS.candidate, BREAD_KEYS.evaluation, BREAD_KEYS.predictions)
    first = digest(bakery, BREAD, week), {key: metadata(bakery, key, week)["receipt"] for key in keys}
    assert bakery.train(BREAD, [week]).success
    assert metadata(bakery, BREAD_KEYS.candidate, week)["computed"] == "yes"
    assert (digest(bakery, BREAD, week), {key: metadata(bakery, key, week)["receipt"] for key in keys}) == first


def test_what_happens_later_does_not_reach_an_earlier_fold(bakery: Bakery, backtest: dg.ExecuteInProcessResult) -> None:
    week, later = FOLDS[0], WEEKS[WEEKS.index(FOLDS[0]) :]
    model, evaluation = digest(bakery, BREAD, week), bakery.checksums(BREAD_KEYS.evaluation)[week]
    bakery.deliver(LOAVES, loaves(seed=9), later)
    bakery.deliver(FACTS, facts(seed=9), later[1:])
    assert bakery.build(WEEKS, SALES.key).success
    try:
        assert bakery.build([week], BREAD_KEYS.candidate, BREAD_KEYS.evaluation).success
        assert digest(bakery, BREAD, week) == model
        assert bakery.checksums(BREAD_KEYS.evaluation)[week] == evaluation
    finally:
        bakery.open()
        assert bakery.build(WEEKS, SALES.key).success


def test_an_interrupted_fold_goes_on_from_its_checkpoint(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    week, write = FOLDS[2], Checkpoint.write
    before, checkpoints = digest(bakery, BREAD, week), Path(bakery.registry.artifacts).parent / "checkpoints"
    starts: list[bytes | None] = []

    def killed(self: Checkpoint, content: bytes) -> None:
        write(self, content)
        raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", killed)
        assert not bakery.build([week], BREAD_KEYS.candidate).success
    (left,) = checkpoints.rglob("final")
    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self: starts.append(read(self)) or starts[-1])
    assert bakery.build([week], BREAD_KEYS.candidate).success
    assert starts[0] is not None
    assert len(json.loads(starts[0])["losses"]) == 20
    assert digest(bakery, BREAD, week) == before
    assert not left.exists()


def test_a_worse_candidate_is_refused_with_the_interval_and_the_champion_stays(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult
) -> None:
    worse = replace(BREAD, trainer=LightGBM(rounds=2, settings={"learning_rate": 0.05}), gate=Gate())
    result = bakery.declared(worse).train(worse, [NEXT])
    assert not result.success
    assert f"{NEXT} is worse than the champion by +" in failures(result)
    against = next(row for row in bakery.rows(BREAD_KEYS.evaluation, NEXT) if row["method"] == "candidate")
    assert f"[{against['low']:+.2%}, {against['high']:+.2%}] at 95%" in refused_checks(result)
    assert NEXT not in bakery.checksums(BREAD_KEYS.predictions)
    with bakery.warehouse.reader() as lake:
        serving = champion.serving(lake, TableName.of_key(BREAD_KEYS.champion), datetime(2018, 1, 1, tzinfo=UTC))
    assert serving is not None
    assert serving.version_of == FOLDS[-1]
    with pytest.raises(RegistryError, match="did not pass its gate"):
        bakery.registry.registered(BREAD.registered_name, NEXT)
    alone = bakery.declared(worse).build([NEXT], BREAD_KEYS.version, BREAD_KEYS.champion)
    assert not alone.success
    assert "is worse than the champion" in failures(alone)


@dataclass(frozen=True)
class OfTheNextWeek(LakeFeatures):
    """What is known of a shop only a week later."""

    def join(self, lake: duckdb.DuckDBPyConnection, entity_rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        later = lake.sql(
            "select shop_id, known_at as shop_known_at, footfall, known_at::date - 7 as week "
            f"from {TableName.of_key(FACTS).sql}"
        )
        return entity_rows.join(later, "shop_id, week", how="left")


def test_a_leaking_candidate_is_refused_by_the_name_of_the_feature(bakery: Bakery) -> None:
    (shop,) = FACT_FEATURES.views
    features = OfTheNextWeek((replace(shop, features=shop.features[:1]),), FACT_FEATURES.deps)
    known = replace(SALES, name="leaky", features=features)
    model = replace(BREAD, name="leaky", training_set=known, gate=Gate(), monitor=None)
    leaky = bakery.declared(model)
    built = leaky.build(WEEKS[1:9], known.key)
    assert built.success, failures(built)
    assert not any(verdicts(built).values())
    assert "footfall: 120 values" in refused_checks(built)
    result = leaky.train(model, FOLDS[:1])
    assert not result.success
    assert "feature 'footfall' leaks: 960 of its values are newer than their row" in failures(result)


def decide(bakery: Bakery, week: str, to: str, reason: str = "shops complained") -> dg.ExecuteInProcessResult:
    config = {"rollback_to": to, "reason": reason, "serves_from": f"{week}T12:00:00+00:00"}
    operation = "commerce_bread_folds"
    return bakery.build(
        [week], BREAD_KEYS.champion, BREAD_KEYS.predictions, config={"ops": {operation: {"config": config}}}
    )


def test_a_rollback_is_a_materialization_and_the_version_of_a_day_is_a_query(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult
) -> None:
    week, earlier = FOLDS[-1], FOLDS[0]
    result = decide(bakery, week, to=earlier)
    assert result.success, failures(result)
    shown = metadata(bakery, BREAD_KEYS.champion, week)
    assert (shown["action"], shown["reason"], shown["replaced"]) == ("rolled back", "shops complained", week)
    with bakery.warehouse.reader() as lake:
        table, day = TableName.of_key(BREAD_KEYS.champion), datetime.fromisoformat(week).replace(tzinfo=UTC)
        served = [champion.serving(lake, table, day.replace(hour=hour)) for hour in (3, 11, 12)]
    assert [one and one.version_of for one in served] == [FOLDS[-2], week, earlier]
    assert {row["version_of"] for row in bakery.rows(BREAD_KEYS.predictions, week)} == {earlier}
    assert bakery.registry.registered(BREAD.registered_name).partition == earlier
    scorer = Scorer.of_champion(BREAD, bakery.warehouse, bakery.registry, datetime.now(UTC))
    assert scorer.decision.version_of == earlier
    assert bakery.train(BREAD, [week]).success
    assert metadata(bakery, BREAD_KEYS.champion, week)["action"] == "rolled back"


@pytest.mark.parametrize(
    ("to", "reason", "refusal"),
    [
        (NEXT, "x", f"version of '{NEXT}': that is no partition of it up to {FOLDS[-2]}"),
        ("latest", "x", "version of 'latest': that is no partition"),
        (FOLDS[0], "", "a rollback needs a reason"),
        (FOLDS[-2], "x", "serves already"),
    ],
)
def test_a_rollback_that_cannot_be_made_is_refused(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult, to: str, reason: str, refusal: str
) -> None:
    result = decide(bakery, FOLDS[-2], to, reason)
    assert not result.success
    assert refusal in failures(result)


def test_the_champion_scores_single_rows_as_it_does_batches(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult
) -> None:
    week = FOLDS[0]
    scorer = Scorer.of_champion(BREAD, bakery.warehouse, bakery.registry, datetime(2017, 3, 8, tzinfo=UTC))
    rows = [row for row in facts().to_pylist() if row["partition_key"] == week][:5]
    found = scorer.score([{"footfall": row["footfall"], "sold_before": row["sold_before"]} for row in rows])
    batch = {row["shop_id"]: row["prediction"] for row in bakery.rows(BREAD_KEYS.predictions, week)}
    assert found == [batch[row["shop_id"]] for row in rows]
    assert scorer.score([]) == []
    assert len(scorer.score([{"footfall": None, "sold_before": 3.0}])) == 1
    with pytest.raises(DeclarationError, match=r"unknown feature 'footfal' \(did you mean footfall\?\)"):
        scorer.score([{"footfal": 1.0, "sold_before": 3.0}])
    with pytest.raises(DeclarationError, match="lacks feature 'sold_before'; give None"):
        scorer.score([{"footfall": 1.0}])
    with pytest.raises(DeclarationError, match="not declared for online use"):
        Scorer.of_champion(BUSY, bakery.warehouse, bakery.registry, datetime.now(UTC))


def test_a_version_that_was_replaced_since_it_was_decided_on_does_not_serve(
    bakery: Bakery, backtest: dg.ExecuteInProcessResult
) -> None:
    week, other = FOLDS[0], replace(BREAD, trainer=LightGBM(rounds=30), gate=Gate())
    stages = (BREAD_KEYS.candidate, BREAD_KEYS.evaluation, BREAD_KEYS.version)
    replaced = bakery.declared(other).build([week], *stages)
    assert replaced.success, failures(replaced)
    refused = bakery.declared(other).build([week], BREAD_KEYS.predictions)
    assert "refused to build commerce/bread_predictions" in failures(refused)
    with pytest.raises(ChampionError, match=f"the version of {week} has been replaced since it was decided on"):
        Scorer.of_champion(BREAD, bakery.warehouse, bakery.registry, datetime(2017, 3, 8, tzinfo=UTC))
    assert bakery.train(BREAD, [week]).success
