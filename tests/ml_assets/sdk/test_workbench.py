"""The workbench does what the folds' assets do, through the same functions, and leaves nothing behind."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow.compute as pc
import pytest

from ml_assets.sdk.champion import ChampionError
from ml_assets.sdk.declarations import Gate
from ml_assets.sdk.tables import ProjectTables
from ml_assets.sdk.training_sets import MissingPartition, TrainingDataError
from ml_assets.sdk.workbench import NoLake, Workbench
from resources.environment import Environment
from resources.model_registry import RegistryError
from tests.ml_assets.sdk.bakery import FOLDS, WEEKS, Bakery, weeks_from
from tests.ml_assets.sdk.lightgbm_project import BREAD, SALES

# MLflow's own tables use a loader strategy that SQLAlchemy retires.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

FIRST, SECOND = FOLDS[:2]
KEYS = ProjectTables(BREAD)
TWO_FEWER = replace(BREAD, window=replace(BREAD.window, training=4))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Iterator[Bakery]:
    """A bakery chain whose model was promoted in two weeks."""
    environment = Environment.of({"HEADWATER_HOME": str(tmp_path_factory.mktemp("shops"))})
    environment.extensions.symlink_to(extensions)
    with dg.DagsterInstance.ephemeral() as instance:
        shops = Bakery.of(environment, instance, BREAD).open()
        assert shops.build(WEEKS[:-1], SALES.key).success
        assert shops.train(BREAD, [FIRST, SECOND]).success
        yield shops


@pytest.fixture
def bench(shops: Bakery) -> Workbench:
    return Workbench.open(shops.environment)


def test_an_environment_without_a_lake_is_refused_and_stays_empty(environment: Environment) -> None:
    with pytest.raises(NoLake, match=rf"no lake in {environment.home}; run make demo"):
        Workbench.open()
    assert [path.name for path in environment.home.iterdir()] == ["extensions"]


def test_a_query_cannot_write(bench: Workbench) -> None:
    asked = "select count(*) as shops from lake.commerce.loaves where partition_key = '2017-01-02'"
    assert bench.query(asked).to_dict("list") == {"shops": [120]}
    with pytest.raises(duckdb.Error, match="read-only"):
        bench.query("delete from lake.commerce.loaves")


def test_computed_rows_are_the_stored_ones(bench: Workbench) -> None:
    assert bench.partitions(SALES.key) == WEEKS[:-1]
    order = [("partition_key", "ascending"), ("shop_id", "ascending")]
    stored = bench.stored_rows(SALES, WEEKS[:2])
    assert bench.computed_rows(SALES, WEEKS[:2]).sort_by(order).equals(stored.sort_by(order))


def test_a_partition_that_is_not_built_is_refused_by_name(bench: Workbench) -> None:
    with pytest.raises(MissingPartition, match=f"no rows for {WEEKS[-1]}; materialize .* of commerce/bread"):
        bench.stored_rows(SALES, WEEKS[-2:])
    late = weeks_from(WEEKS[-1], 2)[-1]
    with pytest.raises(MissingPartition, match=f"shop_facts has no rows for {late}; materialize"):
        bench.computed_rows(SALES, [late])


def test_a_column_that_the_stored_rows_lack_is_refused_with_what_to_do(bench: Workbench) -> None:
    with pytest.raises(TrainingDataError, match=r"was built without loaves, which .* take the rows of computed_rows"):
        bench.stored_rows(replace(SALES, label="loaves"), WEEKS[:1])


def test_the_declared_model_is_the_registered_one_byte_for_byte(bench: Workbench, shops: Bakery) -> None:
    trial = bench.fit(BREAD, SECOND)
    assert trial.fitted.file.text == shops.registry.candidate(BREAD.registered_name, SECOND).text
    found = bench.evaluate(trial, bench.champion(BREAD)).interval
    assert found is not None
    assert (found.low, found.difference, found.high) == (0.0, 0.0, 0.0)


def test_a_trial_is_judged_as_the_gate_would(bench: Workbench, shops: Bakery) -> None:
    found = bench.evaluate(bench.fit(BREAD, SECOND))
    rows = {row["method"]: row for row in shops.rows(KEYS.evaluation, SECOND)}
    assert found.champion is not None
    assert found.champion.version_of == FIRST
    assert found.interval is not None
    assert vars(found.interval) == {name: rows["candidate"][name] for name in vars(found.interval)}
    assert found.errors == {
        "trial": rows["candidate"]["error"],
        "last week": rows["last week"]["error"],
        "champion": rows["champion"]["error"],
    }
    assert found.refusals == []
    said = found._repr_markdown_()
    assert f"| champion (the version of {FIRST}) | " in said
    assert f"zero is better: {found.interval}" in said
    assert "- By this comparison the gate would let it pass" in said


def test_a_variation_that_the_gate_would_refuse_says_why(bench: Workbench) -> None:
    strict = replace(TWO_FEWER, gate=Gate(at_most=0.001))
    said = bench.evaluate(bench.fit(strict, SECOND))._repr_markdown_()
    assert "- By this comparison the gate would refuse it: its wape of" in said


def test_plots_show_the_stored_folds_and_the_trial(bench: Workbench) -> None:
    found = bench.evaluate(bench.fit(TWO_FEWER, SECOND))
    assert list(found.before["candidate"]) == [FIRST, SECOND]
    for picture in (found.importance, found.calibration, found.errors_over_time):
        assert picture._repr_png_().startswith(b"\x89PNG")


def test_a_new_project_is_tried_on_rows_computed_at_once(bench: Workbench) -> None:
    rows = replace(SALES, name="rye")
    rye = replace(BREAD, name="rye", training_set=rows, gate=Gate(against_champion=False))
    with pytest.raises(MissingPartition, match="commerce/rye_training_set"):
        bench.fit(rye, SECOND)
    trial = bench.fit(rye, SECOND, bench.computed_rows(rows, weeks_from("2017-01-16", 8)))
    found = bench.evaluate(trial)
    assert (found.champion, found.interval, found.before) == (None, None, {})
    assert found.errors.keys() == {"trial"}
    assert found.errors_over_time.png.startswith(b"\x89PNG")


def test_rows_that_lack_a_partition_of_the_fold_are_refused(bench: Workbench) -> None:
    rows = bench.computed_rows(SALES, weeks_from("2017-01-16", 8))
    fewer = rows.filter(pc.field("partition_key") != "2017-02-06")
    with pytest.raises(TrainingDataError, match="the rows have none of 2017-02-06, which the fold knows"):
        bench.fit(BREAD, SECOND, fewer)


def test_without_a_champion_it_says_what_to_do(bench: Workbench) -> None:
    with pytest.raises(ChampionError, match=f"had no champion before {FIRST}; keep the declared model's name"):
        bench.evaluate(bench.fit(BREAD, FIRST))
    rye = replace(BREAD, name="rye")
    with pytest.raises(ChampionError, match=r"commerce\.rye has no champion .* materialize .* commerce/rye_champion"):
        bench.champion(rye)
    with pytest.raises(ChampionError, match=r"no declared model \(commerce\.rye\) has a champion"):
        bench.served([rye])
    with pytest.raises(ChampionError, match=r"\(none is declared\)"):
        bench.served([])
    assert bench.served([rye, BREAD]) == [BREAD]


def test_a_champion_that_knew_the_holdout_is_no_comparison(bench: Workbench) -> None:
    with pytest.raises(ChampionError, match=f"version of {SECOND} has learned from what the fold {FIRST} is judged on"):
        bench.evaluate(bench.fit(BREAD, FIRST), bench.champion(BREAD))


def test_the_champion_scores_single_rows(bench: Workbench) -> None:
    row = {"footfall": 100.0, "sold_before": 60.0}
    assert bench.champion(BREAD).version_of == SECOND
    (score,) = bench.scorer(BREAD).score([row])
    assert score == pytest.approx(60, abs=10)
    then = bench.champion(BREAD, datetime(2017, 3, 8, tzinfo=UTC))
    assert then.version_of == FIRST


def test_a_registry_that_is_gone_is_not_made_anew(bench: Workbench, tmp_path: Path) -> None:
    elsewhere = replace(bench, registry=bench.registry.model_copy(update={"uri": f"sqlite:///{tmp_path}/gone.sqlite"}))
    with pytest.raises(RegistryError, match=r"gone\.sqlite is gone"):
        elsewhere.evaluate(bench.fit(BREAD, SECOND))
    assert list(tmp_path.iterdir()) == []


def test_a_trial_leaves_nothing_behind(bench: Workbench, shops: Bakery) -> None:
    def state() -> tuple[object, ...]:
        files = [path for path in shops.environment.home.rglob("*") if not path.name.endswith(("-wal", "-shm"))]
        return shops.warehouse.snapshot(), sorted(files)

    before = state()
    bench.evaluate(bench.fit(TWO_FEWER, SECOND), bench.champion(BREAD))
    assert state() == before
