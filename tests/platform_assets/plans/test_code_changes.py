"""What changed in the dbt models since a git ref: exactly the models that store other rows, and what of them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from platform_assets.dbt_models.queries import model_codes
from platform_assets.plans.code_changes import (
    CodeChange,
    DoesNotCompile,
    NoRepository,
    UnknownRef,
    changed_models,
    compare,
)
from resources.dbt import PROJECT, Dbt
from resources.environment import Environment
from resources.warehouse import Warehouse
from tests.platform_assets.dbt_models.shop import SOURCES, manifest, stored, view

STAGED = "select id as product_id, value as sales, qty as units from lake.shop.raw_sales"
SALES = "select product_id, sum(sales) as sales from lake.shop.stg_sales group by product_id"
COPY = "with s as (select * from lake.shop.sales) select * from s"


def changes(before: dict[str, dict], after: dict[str, dict]) -> dict[str, tuple[str, bool]]:
    """The changes from some models to others, on top of the same three."""
    same = {
        "stg_sales": view("stg_sales", STAGED),
        "sales": stored("sales", SALES, "stg_sales"),
        "copy": stored("copy", COPY, "sales"),
    }
    one, other = (model_codes(manifest(*(same | models).values()), SOURCES) for models in (before, after))
    return {change.asset: (change.reason, change.additive) for change in compare(one, other, "v1")}


def sales(sql: str, **config: object) -> dict[str, dict]:
    return {"sales": stored("sales", sql, "stg_sales", **config)}


def staged(sql: str) -> dict[str, dict]:
    return {"stg_sales": view("stg_sales", sql)}


def test_a_cosmetic_edit_is_no_change() -> None:
    edited = "/* all */ WITH x AS (SELECT * FROM lake.shop.stg_sales) " + SALES.replace("lake.shop.stg_sales", "x")
    assert changes({}, sales(edited)) == {}
    assert changes({}, {}) == {}


ADDED = {
    "in the select list": (SALES.replace("as sales", "as sales, count(*) as lines"), "lines"),
    "in front": (SALES.replace("select", "select max(units) as most,"), "most"),
    "through CTEs": (
        "with x as (select *, units * 2 as pairs from lake.shop.stg_sales), "
        "y as (select product_id, sum(sales) as sales, sum(pairs) as pairs from x group by product_id) select * from y",
        "pairs",
    ),
    "from a constant": (SALES.replace("as sales", "as sales, 1 as one"), "one"),
}


@pytest.mark.parametrize("how", ADDED)
def test_a_column_that_is_only_added_concerns_its_model_and_who_reads_all_of_it(how: str) -> None:
    sql, column = ADDED[how]
    added = (f"its column {column} is new since v1", True)
    assert changes({}, sales(sql)) == {"shop/sales": added, "shop/copy": added}


NOT_ONLY_ADDED = {
    "another column changed too": (
        SALES.replace("sum(sales) as sales", "max(sales) as sales, 1 as one"),
        "its column one is new; its column sales changed since v1",
    ),
    "the column decides about rows": (
        SALES.replace("select product_id", "select product_id, units").replace("by product_id", "by product_id, units"),
        "its column units is new; its query changed since v1",
    ),
    "the rows are made distinct": (
        SALES.replace("select product_id", "select distinct product_id, 1 as one"),
        "its column one is new; its query changed since v1",
    ),
    "it joins for the column": (
        "select s.product_id, s.sales, r.qty from (" + SALES + ") as s left join lake.shop.raw_sales as r "
        "on r.id = s.product_id",
        "its column qty is new; its query changed since v1",
    ),
    "it unnests": (
        SALES.replace("as sales", "as sales, unnest([1, 2]) as n"),
        "its column n is new; its query changed since v1",
    ),
}


@pytest.mark.parametrize("how", NOT_ONLY_ADDED)
def test_a_column_that_is_added_with_another_change_is_not_contained(how: str) -> None:
    sql, reason = NOT_ONLY_ADDED[how]
    found = changes({}, sales(sql))
    assert found["shop/sales"] == (reason, False)
    assert found["shop/copy"][1], "what reads all columns gains one, whatever the others hold"


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (SALES.replace("sum(", "max("), "its column sales changed since v1"),
        (SALES.replace("group", "where units > 0 group"), "its query changed since v1"),
        (SALES.replace("as sales", "as sales_usd"), "its column sales_usd is new; its column sales is gone since v1"),
    ],
)
def test_the_reason_names_what_changed(after: str, reason: str) -> None:
    other = {"copy": stored("copy", "select 1 as one")}
    assert changes(other, other | sales(after)) == {"shop/sales": (reason, False)}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"meta": {"partition_column": "week"}}, "its partition_column changed since v1"),
        ({"meta": {"lookback": {"stg_sales": 2}}}, "its lookback changed since v1"),
        ({"raw_code": "{{ window_of(ref('stg_sales')) }}"}, "what it reads of a run's window changed since v1"),
    ],
)
def test_a_change_of_config_or_window_is_named(config: dict, reason: str) -> None:
    assert changes({}, sales(SALES, **config)) == {"shop/sales": (reason, False)}


@pytest.mark.parametrize(
    ("after", "view_reason", "reader"),
    [
        (
            STAGED.replace("value as", "value / 100 as"),
            "its column sales changed",
            ("it reads stg_sales, whose column sales changed since v1", False),
        ),
        (
            STAGED + " where qty > 0",
            "its query changed",
            ("it reads stg_sales, whose query changed since v1", False),
        ),
        (STAGED.replace("qty as", "qty + 1 as"), "its column units changed", None),
        (STAGED.replace("select", "select store,"), "its column store is new", None),
    ],
)
def test_a_view_is_contained_and_its_readers_are_the_change(
    after: str, view_reason: str, reader: tuple[str, bool] | None
) -> None:
    found = changes({}, staged(after))
    assert found.pop("shop/stg_sales") == (f"{view_reason} since v1", True)
    assert found == ({"shop/sales": reader} if reader else {})


def test_a_view_of_a_view_passes_the_change_on() -> None:
    more = {
        "stg_good": view("stg_good", "select product_id, units from lake.shop.stg_sales where sales > 0", "stg_sales"),
        "good": stored("good", "select sum(units) as units from lake.shop.stg_good", "stg_good"),
    }
    found = changes(more, more | staged(STAGED.replace("qty as", "qty + 1 as")))
    assert found["shop/good"] == ("it reads stg_good, whose column units changed since v1", False)
    assert found["shop/stg_good"] == ("it reads stg_sales, whose column units changed since v1", True)
    assert "shop/sales" not in found


def test_new_models_are_changes_and_removed_ones_are_not() -> None:
    new = {"more": stored("more", "select * from lake.shop.sales", "sales")}
    assert changes({}, new) == {"shop/more": ("is new since v1", True)}
    assert changes(new, {}) == {}


def test_a_query_that_cannot_be_followed_is_never_called_additive() -> None:
    def counted(more: str) -> dict[str, dict]:
        return sales(f"select columns('s.*'){more} from lake.shop.stg_sales")

    assert changes(counted(""), counted(", 1 as one"))["shop/sales"] == ("its query changed since v1", False)


def test_upstream_models_come_first() -> None:
    found = changes({}, sales(SALES.replace("as sales", "as sales, 1 as one")) | staged(STAGED + " where qty > 0"))
    assert list(found) == ["shop/stg_sales", "shop/sales", "shop/copy"]


class Repository:
    """A git repository with a copy of the project, and the lake that it is compiled over."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self.folder = folder
        self.dbt = Dbt.of(environment).of_folder(folder / "dbt", folder.parent / "target")
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments: str) -> str:
        identity = {f"GIT_{who}_{what}": "test@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", "-C", str(self.folder), *arguments],
            env=os.environ | identity | {"GIT_CONFIG_GLOBAL": os.devnull},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def commit(self, tag: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", tag)
        self.git("tag", tag)

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.folder / "dbt" / "models" / path
        text = file.read_text()
        assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
        file.write_text(text.replace(old, new))

    def add(self, folder: str, name: str, sql: str) -> None:
        place = self.folder / "dbt" / "models" / folder
        (place / f"{name}.sql").write_text(sql)
        (place / f"{name}.yml").write_text(
            f"models:\n  - name: {name}\n    description: One row per product.\n"
            "    config:\n      meta:\n        partitions: none\n"
        )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, extensions: Path) -> Repository:
    """Tags: `empty` without a project, `broken` with one that does not compile, `v1` as the real one."""
    root = tmp_path_factory.mktemp("code")
    environment = Environment.of({"HEADWATER_HOME": str(root / "home")})
    environment.home.mkdir()
    environment.extensions.symlink_to(extensions)
    Warehouse.of(environment).snapshot()
    there = Repository(root / "repository", environment)
    there.commit("empty")
    shutil.copytree(PROJECT, there.folder / "dbt", ignore=shutil.ignore_patterns("target", "logs"))
    there.add("intermediate/commerce", "int_products_broken", "select * from {{ ref('no_such_model') }}")
    there.commit("broken")
    there.add("intermediate/commerce", "int_products_copied", "select * from {{ ref('int_products_classified') }}")
    for suffix in ("sql", "yml"):
        (there.folder / "dbt/models/intermediate/commerce" / f"int_products_broken.{suffix}").unlink()
    there.commit("v1")
    return there


@pytest.mark.xdist_group("dbt")
def test_the_changes_of_the_real_project_are_those_that_were_made(repository: Repository) -> None:
    for path, old, new in (
        ("marts/commerce/baskets.sql", "with lines as (\n", "-- what a household bought\nWITH  lines  AS (\n"),
        (
            "intermediate/commerce/int_transactions_priced.sql",
            "    sold_at,",
            "    sold_at, 2 * sales_usd as double_usd,",
        ),
        ("intermediate/commerce/int_products_classified.sql", "product_id,", "product_id, 1 as one,"),
        ("intermediate/webtoon/int_reads_sessionized.sql", "completion >= 0.9", "completion >= 0.8"),
        ("staging/commerce/stg_commerce__promotions.sql", "display_location,", "upper(display_location) as {old}"),
        ("staging/commerce/stg_commerce__households.sql", " age,", " age, 1 as one,"),
        ("marts/webtoon/series_days.sql", "window_of(ref('int_reads_sessionized'))", "ref('int_reads_sessionized')"),
        ("marts/webtoon/reader_retention_weeks.yml", "reader_days: 3", "reader_days: 4"),
    ):
        repository.edit(path, old, new.replace("{old}", old))
    repository.add("intermediate/commerce", "int_products_listed", "select 1 as product_id")
    for suffix in ("sql", "yml"):
        (repository.folder / "dbt/models/staging/commerce" / f"stg_commerce__coupons.{suffix}").unlink()
    status = repository.git("status", "--porcelain")
    found = {change.asset: change for change in changed_models("v1", repository.dbt)}
    assert repository.git("status", "--porcelain") == status
    expected = {
        "commerce/int_transactions_priced": ("its column double_usd is new", True),
        "commerce/int_products_classified": ("its column one is new", True),
        "commerce/int_products_copied": ("its column one is new", True),
        "commerce/int_products_listed": ("is new", True),
        "webtoon/int_reads_sessionized": ("its column is_completed changed", False),
        "commerce/stg_commerce__promotions": ("its column display_location changed", True),
        "commerce/int_promotions_summarized": (
            "it reads stg_commerce__promotions, whose column display_location changed",
            False,
        ),
        "commerce/stg_commerce__households": ("its column one is new", True),
        "webtoon/series_days": ("what it reads of a run's window changed", False),
        "webtoon/reader_retention_weeks": ("its lookback changed", False),
    }
    assert found == {name: CodeChange(name, f"{why} since v1", additive) for name, (why, additive) in expected.items()}
    repository.commit("v2")
    assert changed_models("HEAD", repository.dbt) == []


@pytest.mark.xdist_group("dbt")
def test_a_ref_that_does_not_compile_is_refused_with_what_dbt_says(repository: Repository) -> None:
    with pytest.raises(DoesNotCompile, match=r"(?s)at broken does not compile.*no_such_model"):
        changed_models("broken", repository.dbt)


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("no-such-branch", "knows no commit 'no-such-branch'.*git says"),
        ("--output=/tmp/x", "knows no commit '--output=/tmp/x'"),
        ("", "knows no commit ''"),
        ("v1:dbt", "knows no commit 'v1:dbt'"),
        ("empty", "commit empty has no dbt project in dbt"),
    ],
)
def test_a_ref_that_names_no_project_is_refused(repository: Repository, ref: str, said: str) -> None:
    with pytest.raises(UnknownRef, match=rf"(?s){said}"):
        changed_models(ref, repository.dbt)


def test_a_project_outside_of_git_is_refused(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(NoRepository, match=r"(?s)is in no git repository.*git says"):
        changed_models("v1", repository.dbt.of_folder(tmp_path, tmp_path / "target"))


def test_without_git_nothing_is_compared(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoRepository, match="git is not installed"):
        changed_models("v1", repository.dbt)
