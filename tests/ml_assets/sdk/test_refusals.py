"""What a run says that must not be made: a lost registry, a refused version, rows that no model may learn from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_assets.sdk.champion import ChampionError
from ml_assets.sdk.declarations import Gate, Model, Query
from ml_assets.sdk.serving import Scorer
from ml_assets.sdk.tables import ProjectTables
from ml_assets.sdk.trainers.lightgbm import LightGBM
from resources.model_registry import RegistryError
from resources.warehouse import TableName, physical_partitions
from tests.ml_assets.sdk.bakery import FOLDS, WEEKS, Bakery, failures
from tests.ml_assets.sdk.lightgbm_project import BREAD, SALES
from tests.ml_assets.sdk.sklearn_project import BUSY, BUSY_WEEKS

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.xdist_group("bakery"),
]

ROLLS = replace(BREAD, name="rolls", trainer=LightGBM(rounds=10, settings={"min_data_in_leaf": 10}), gate=Gate())
HOPELESS = replace(ROLLS, gate=Gate(at_most=1e-9))
KEYS = ProjectTables(ROLLS)
FIRST, REFUSED, LAST = FOLDS
MOMENT = datetime(2017, 3, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def rolls(bakery: Bakery) -> Bakery:
    """A model of its own on the bakery's rows: the first and the last fold serve, the one between is refused."""
    made, hopeless = bakery.declared(ROLLS), bakery.declared(HOPELESS)
    result = made.train(ROLLS, [FIRST])
    assert result.success, failures(result)
    refused = hopeless.train(HOPELESS, [REFUSED])
    assert f"the gate passes_gate refused, in this run, {REFUSED} its wape of" in failures(refused)
    result = made.train(ROLLS, [LAST])
    assert result.success, failures(result)
    return made


@contextmanager
def damaged(file: Path, damage: Callable[[Path], object]) -> Iterator[None]:
    """While it lasts, `file` is damaged."""
    sound = file.read_bytes()
    damage(file)
    try:
        yield
    finally:
        file.write_bytes(sound)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def foreign(file: Path) -> None:
    file.write_bytes(b"\x80\x04\x95 a pickle, or what looks like one")


def model_file(rolls: Bakery, week: str) -> Path:
    return rolls.registry.file(rolls.registry.candidate(ROLLS.registered_name, week).run_id)


@pytest.mark.parametrize(
    ("damage", "what"), [(truncated, "was changed after training"), (foreign, "was changed"), (Path.unlink, "is gone")]
)
def test_a_damaged_model_file_is_named_by_whoever_reads_it(
    rolls: Bakery, damage: Callable[[Path], object], what: str
) -> None:
    file = model_file(rolls, FIRST)
    said = f"{ROLLS.registered_name} {FIRST}: its file {file.as_uri()} {what}"
    with damaged(file, damage):
        with pytest.raises(RegistryError, match=f"{said}.*materialize that partition of the model again"):
            Scorer.of_champion(ROLLS, rolls.warehouse, rolls.registry, MOMENT)
        judged, predicted = rolls.build([FIRST], KEYS.evaluation), rolls.build([FIRST], KEYS.predictions)
    assert f"commerce/rolls_candidate@{FIRST} is" in failures(judged)
    assert f"its file {file}" in failures(judged)
    assert said in failures(predicted)
    healed = rolls.train(ROLLS, [FIRST])
    assert healed.success, failures(healed)
    assert Scorer.of_champion(ROLLS, rolls.warehouse, rolls.registry, MOMENT).decision.version_of == FIRST


def test_a_damaged_registry_is_named_by_whoever_reads_it(rolls: Bakery) -> None:
    file = Path(rolls.registry.uri.removeprefix("sqlite:///"))
    with damaged(file, truncated):
        with pytest.raises(RegistryError, match=rf"{ROLLS.registered_name} {FIRST}: the model registry .*put back"):
            Scorer.of_champion(ROLLS, rolls.warehouse, rolls.registry, MOMENT)
        for stage in (KEYS.version, KEYS.champion, KEYS.predictions):
            said = failures(rolls.build([FIRST], stage))
            assert f"RegistryError: {ROLLS.registered_name} {FIRST}: the model registry {file}" in said
    # Once the database has been put back, what had failed is made again.
    healed = rolls.train(ROLLS, [FIRST])
    assert healed.success, failures(healed)
    assert Scorer.of_champion(ROLLS, rolls.warehouse, rolls.registry, MOMENT).decision.version_of == FIRST


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([KEYS.version], f"the gate passes_gate refused, in this run, {REFUSED} its wape of"),
        ([KEYS.version, KEYS.champion], f"the gate passes_gate refused, in this run, {REFUSED} its wape of"),
        ([KEYS.champion], f"commerce/rolls_version@{REFUSED} is late: it was expected by now and was never built"),
        ([KEYS.predictions], f"commerce/rolls_champion@{REFUSED} is late"),
    ],
)
def test_a_refused_fold_is_not_promoted_by_materializing_its_later_stages_alone(
    rolls: Bakery, stages: list[dg.AssetKey], said: str
) -> None:
    result = rolls.declared(HOPELESS).build([REFUSED], *stages)
    assert not result.success
    assert said in failures(result)
    assert REFUSED not in rolls.checksums(KEYS.champion)
    with pytest.raises(RegistryError, match=f"no version of {ROLLS.registered_name} is registered for {REFUSED}"):
        rolls.registry.registered(ROLLS.registered_name, REFUSED)


def test_a_fold_after_a_refused_one_is_watched_without_its_predictions_and_the_refused_one_is_not(
    rolls: Bakery,
) -> None:
    later = rolls.build([LAST], KEYS.monitor)
    assert later.success, failures(later)
    watched = {row["subject"]: row for row in rolls.rows(KEYS.monitor, LAST)}
    assert watched["prediction"]["value"] > 0
    assert watched["prediction"]["rows"] == len(rolls.rows(KEYS.predictions, FIRST))
    refused = rolls.build([REFUSED], KEYS.monitor)
    assert f"commerce/rolls_champion@{REFUSED} is late: it was expected by now" in failures(refused)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (REFUSED, f"no version of commerce.rolls is registered for {REFUSED}"),
        ("2017-03-07", "'rolls' cannot be rolled back to the version of '2017-03-07': that is no partition of it"),
        ("newest", "'rolls' cannot be rolled back to the version of 'newest': that is no partition of it"),
        (WEEKS[0], f"'rolls' cannot be rolled back to the version of '{WEEKS[0]}': that is no partition of it"),
    ],
)
def test_a_rollback_to_what_is_no_version_is_refused_by_name(rolls: Bakery, to: str, said: str) -> None:
    before = rolls.checksums(KEYS.champion)
    config = {"rollback_to": to, "reason": "x", "serves_from": f"{LAST}T12:00:00+00:00"}
    operation = {"ops": {"commerce_rolls_folds": {"config": config}}}
    result = rolls.build([LAST], KEYS.champion, config=operation)
    assert not result.success
    assert said in failures(result)
    assert rolls.checksums(KEYS.champion) == before


def test_before_the_first_champion_nobody_serves(rolls: Bakery) -> None:
    early = datetime(2016, 1, 1, tzinfo=UTC)
    with pytest.raises(
        ChampionError, match=r"no version of 'rolls' serves at 2016.*materialize commerce/rolls_champion"
    ):
        Scorer.of_champion(ROLLS, rolls.warehouse, rolls.registry, early)


def odd(model: Model, **training_set: object) -> Model:
    """The model over a training set of its own, in which something is wrong."""
    rows = replace(model.training_set, name="odd", **training_set)  # type: ignore[arg-type]
    return replace(model, name="odd", training_set=rows, gate=Gate(), monitor=None)


ENTITIES, LABELS = SALES.entity_rows.reads, SALES.labels.reads


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"labels": Query("select shop_id, week, 'nan'::double as sold from loaves", LABELS)},
            f"commerce/odd_training_set {WEEKS[1]}: 120 of 120 labels 'sold' are NaN, infinite or null, first that of",
        ),
        (
            {"labels": Query("select shop_id, week, 'inf'::double as sold from loaves", LABELS)},
            f"commerce/odd_training_set {WEEKS[1]}: 120 of 120 labels 'sold' are NaN, infinite or null, first that of",
        ),
        (
            {"labels": Query("select shop_id, known_at::date as week, 3 * footfall as sold from facts", ENTITIES)},
            "feature 'footfall' is the label 'sold' in disguise",
        ),
        (
            {"entity_rows": Query("select shop_id, known_at::date + 7 as week from facts", ENTITIES)},
            "120 of 120 entity rows are from the future of their partition",
        ),
    ],
    ids=["nan", "infinite", "leak", "future"],
)
def test_a_training_set_that_nothing_may_be_learned_from_is_refused_by_its_run(
    bakery: Bakery, wrong: dict[str, object], said: str
) -> None:
    model = odd(BREAD, **wrong)
    made = bakery.declared(model)
    result = made.build(WEEKS[1:2], model.training_set.key)
    assert not result.success
    assert said in failures(result)
    with made.warehouse.reader() as lake:
        assert physical_partitions(lake, TableName.of_key(model.training_set.key)) == {}


@pytest.mark.parametrize(
    ("model", "wrong", "said"),
    [
        (
            BUSY,
            {"labels": Query("select shop_id, week, 0 as busy from loaves", BUSY_WEEKS.labels.reads)},
            "commerce/odd_one_class_training_set has only the class 0 in",
        ),
        (
            BREAD,
            {"labels": Query("select shop_id, week, sold from loaves where false", LABELS)},
            "commerce/odd_no_rows_training_set has no rows in",
        ),
    ],
    ids=["one_class", "no_rows"],
)
def test_a_fold_that_nothing_can_be_learned_from_is_refused_by_its_run(
    bakery: Bakery, request: pytest.FixtureRequest, model: Model, wrong: dict[str, object], said: str
) -> None:
    name = f"odd_{request.node.callspec.id}"
    declared = odd(model, **wrong)
    declared = replace(declared, name=name, training_set=replace(declared.training_set, name=name))
    made = bakery.declared(declared)
    rows = made.build(WEEKS[1:9], declared.training_set.key)
    assert rows.success, failures(rows)
    result = made.train(declared, [FIRST])
    assert not result.success
    assert f"model {name!r} {FIRST}: {said}" in failures(result)
    assert "in 2017-01" in failures(result)
    with pytest.raises(RegistryError, match=f"no candidate of {declared.registered_name} for {FIRST}"):
        made.registry.candidate(declared.registered_name, FIRST)


def test_an_error_that_is_no_number_is_refused_and_shown_in_words(bakery: Bakery) -> None:
    labels = Query("select shop_id, week, 0.0 as sold from loaves", LABELS)
    declared = replace(odd(BREAD, labels=labels), name="unsold")
    declared = replace(declared, training_set=replace(declared.training_set, name="unsold"))
    made = bakery.declared(declared)
    assert made.build(WEEKS[1:9], declared.training_set.key).success
    result = made.train(declared, [FIRST])
    assert not result.success
    assert "its wape is nan, which nothing can be compared with" in failures(result)
    (record,) = made.instance.fetch_materializations(ProjectTables(declared).evaluation, limit=1).records
    assert record.asset_materialization is not None
    shown = record.asset_materialization.metadata
    # The web UI's JSON has no NaN: one would take the page of the asset down.
    assert (shown["wape"].value, shown["bias"].value) == ("nan", "nan")


def test_a_week_without_rows_is_a_part_of_a_fold_like_any_other(bakery: Bakery) -> None:
    without = Query(f"select shop_id, week, sold from loaves where week <> date '{WEEKS[3]}'", LABELS)
    declared = replace(odd(BREAD, labels=without), name="holiday")
    declared = replace(declared, training_set=replace(declared.training_set, name="holiday"))
    made = bakery.declared(declared)
    assert made.build(WEEKS[1:9], declared.training_set.key).success
    assert WEEKS[3] not in made.checksums(declared.training_set.key)
    result = made.train(declared, [FIRST])
    assert result.success, failures(result)


def test_a_model_of_another_declaration_is_not_judged_by_it(rolls: Bakery) -> None:
    narrower = replace(ROLLS, features=("footfall",))
    result = rolls.declared(narrower).build([FIRST], KEYS.evaluation)
    assert not result.success
    assert f"commerce/rolls_candidate@{FIRST} is outdated: its code has changed since it was built" in failures(result)
