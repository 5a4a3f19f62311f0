"""A home as earlier code left it opens, is verified pair by pair, and goes on; moved or copied before, too."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as db
import yaml

from platform_assets.instance.services import instance_settings
from platform_assets.instance.upgrades import STEPS
from resources.environment import Environment
from resources.home import HOME_FILE, HomeError, Step, open_home, read
from resources.ledger import Ledger
from resources.moving import move
from resources.warehouse import LakeError, Warehouse
from tests.homes.kept import restore
from tests.platform_assets.partition_checker.shop import DAYS, Shop

KEPT = sorted(path for path in Path(__file__).parent.iterdir() if path.name.startswith("version_"))
NAMES = ("sales", "evens", "sums")


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest, environment: Environment) -> Environment:
    """An environment whose home is as earlier code left it."""
    restore(request.param, environment.home)
    return environment


@contextmanager
def opened(environment: Environment) -> Iterator[Shop]:
    """The shop in a home that lets itself be opened."""
    open_home(environment, STEPS)
    (environment.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(environment)))
    with dg.DagsterInstance.from_config(str(environment.dagster_home)) as instance:
        yield Shop(environment, instance)


def verified(shop: Shop) -> dict[str, list[str]]:
    return {name: [key for key, pair in shop.pairs(name).items() if pair.state == "verified"] for name in NAMES}


def test_an_older_home_is_upgraded_verified_and_goes_on(kept: Environment) -> None:
    with opened(kept) as shop:
        home = read(kept)
        assert home is not None
        assert home.version == 1 + len(STEPS)
        assert verified(shop) == dict.fromkeys(NAMES, DAYS[:2])
        for name in NAMES:
            assert set(shop.instance.get_materialized_partitions(dg.AssetKey(["shop", name]))) == set(DAYS[:2])
        before = {name: shop.receipts(name) for name in NAMES}
        assert shop.build(*NAMES, first=DAYS[1], last=DAYS[2]).success
        assert verified(shop) == dict.fromkeys(NAMES, DAYS[:3])
        assert all(shop.receipts(name)[DAYS[1]].id == before[name][DAYS[1]].id for name in NAMES)


def test_receipts_of_files_name_them_below_the_home(kept: Environment) -> None:
    open_home(kept, STEPS)
    ledger = Ledger.of(kept)
    (file,) = ledger.current("shop/model")[""].files
    assert Path(file.path).is_relative_to(kept.home)
    assert Path(file.path).stat().st_size == file.bytes
    standings = ledger.standings(["shop/model"])["shop/model"]
    assert not standings.forged.any()
    assert json.loads(standings.files[0])[0][0].startswith("mlflow/artifacts/")


@pytest.mark.parametrize("killed_at", range(len(STEPS)))
def test_an_upgrade_that_was_killed_is_begun_again(kept: Environment, killed_at: int) -> None:
    def dies(environment: Environment) -> None:
        STEPS[killed_at].apply(environment)
        raise KeyboardInterrupt

    steps = [*STEPS[:killed_at], Step("dies after it has written", dies), *STEPS[killed_at + 1 :]]
    with pytest.raises(KeyboardInterrupt):
        open_home(kept, steps)
    with opened(kept) as shop:
        assert verified(shop) == dict.fromkeys(NAMES, DAYS[:2])
        assert not Ledger.of(kept).standings(["shop/model"])["shop/model"].forged.any()


def test_a_receipt_that_was_forged_before_stays_forged(kept: Environment) -> None:
    with db.create_engine(kept.ledger_uri).begin() as connection:
        connection.execute(db.text("update headwater_receipts set checksum = 'x' where asset = 'shop/model'"))
    open_home(kept, STEPS)
    assert Ledger.of(kept).standings(["shop/model"])["shop/model"].forged.all()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Environment:
    """Another folder for a home, of a name that no address takes as it is."""
    return Environment.of({"HEADWATER_HOME": str(tmp_path / "other place?" / "it's")})


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_moved_home_is_readable_after_one_step_that_can_be_repeated(
    kept: Environment, elsewhere: Environment, upgraded: bool
) -> None:
    if upgraded:
        open_home(kept, STEPS)
    elsewhere.home.parent.mkdir()
    kept.home.rename(elsewhere.home)
    with pytest.raises(HomeError, match="headwater move"), opened(elsewhere):
        pass
    with pytest.raises(LakeError, match=r"files were in .*run headwater move"):
        Warehouse.of(elsewhere).tables()
    for _ in range(2):
        move(elsewhere)
        with opened(elsewhere) as shop:
            assert verified(shop) == dict.fromkeys(NAMES, DAYS[:2])
    with opened(elsewhere) as shop:
        assert shop.build(*NAMES, first=DAYS[0], last=DAYS[2]).success
        assert verified(shop) == dict.fromkeys(NAMES, DAYS[:3])
    (file,) = Ledger.of(elsewhere).current("shop/model")[""].files
    assert Path(file.path).is_relative_to(elsewhere.home)
    assert not kept.home.exists()


def test_a_move_that_was_killed_is_begun_again(
    kept: Environment, elsewhere: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_home(kept, STEPS)
    elsewhere.home.parent.mkdir()
    kept.home.rename(elsewhere.home)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resources.moving.write", dies)
        with pytest.raises(KeyboardInterrupt):
            move(elsewhere)
    with pytest.raises(HomeError, match="headwater move"), opened(elsewhere):
        pass
    move(elsewhere)
    with opened(elsewhere) as shop:
        assert verified(shop) == dict.fromkeys(NAMES, DAYS[:2])


def test_a_copy_lives_its_own_life(kept: Environment, elsewhere: Environment) -> None:
    open_home(kept, STEPS)
    shutil.copytree(kept.home, elsewhere.home, symlinks=True)
    with pytest.raises(HomeError, match=r"still there.*headwater move --copy"):
        move(elsewhere)
    before = {path: path.read_bytes() for path in (kept.home / "lake").rglob("*.parquet")}
    assert move(elsewhere, is_copy=True).id != read(kept).id  # type: ignore[union-attr]
    with opened(elsewhere) as shop:
        shop.sales[DAYS[0]] = [8]
        assert shop.build(*NAMES, first=DAYS[0], last=DAYS[0]).success
        assert shop.receipts("sales")[DAYS[0]].rows == 1
    assert {path: path.read_bytes() for path in (kept.home / "lake").rglob("*.parquet")} == before
    with opened(kept) as shop:
        assert verified(shop) == dict.fromkeys(NAMES, DAYS[:2])
        assert shop.receipts("sales")[DAYS[0]].rows == 3
    with pytest.raises(HomeError, match="no copy"):
        move(elsewhere, is_copy=True)


def test_files_of_the_lake_alone_can_be_moved(kept: Environment, tmp_path: Path) -> None:
    open_home(kept, STEPS)
    there = replace(kept, data=str(tmp_path / "big disk"))
    with pytest.raises(HomeError, match=r"has none: move or copy them there"):
        move(there)
    Path(kept.data).rename(there.data)
    move(there)
    with opened(there) as shop:
        assert verified(shop) == dict.fromkeys(NAMES, DAYS[:2])


def test_a_copy_does_not_write_to_files_that_the_original_has_outside(
    kept: Environment, elsewhere: Environment, tmp_path: Path
) -> None:
    outside = str(tmp_path / "data")
    Path(kept.data).rename(outside)
    move(replace(kept, data=outside))
    shutil.copytree(kept.home, elsewhere.home, symlinks=True)
    with pytest.raises(HomeError, match=r"would write to the lake's files of"):
        move(replace(elsewhere, data=outside), is_copy=True)


def test_nothing_is_moved_where_nothing_is(elsewhere: Environment) -> None:
    with pytest.raises(HomeError, match="no home: nothing is stored"):
        move(elsewhere)
    assert not (elsewhere.home / HOME_FILE).exists()
