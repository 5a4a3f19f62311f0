"""Every folder's feature views are found, and fit together."""

from pathlib import Path

import pytest

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.catalogue import Catalogue, catalogue, declared_in
from ml_assets.pricing.feature_views import PRODUCT, PRODUCT_PRICES, PROPOSED_DISCOUNT

VIEW = """
from dataclasses import replace
from ml_assets.pricing.feature_views import PRODUCT_PRICES
{name} = replace(PRODUCT_PRICES, name={name!r}.lower())
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `teams` to put folders into."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "teams").mkdir()
    return tmp_path / "teams"


def declare(folders: Path, team: str, text: str) -> None:
    (folders / team).mkdir()
    (folders / team / "feature_views.py").write_text(text)


def test_a_new_folder_s_views_are_found_without_any_list(folders: Path) -> None:
    declare(folders, "bakery_features", VIEW.format(name="LOAVES"))
    declare(folders, "dairy_features", VIEW.format(name="CHEESES") + "MORE = replace(CHEESES, name='more')")
    # What a module imports is declared by the other, and here by nobody's folder but once.
    assert [view.name for view in declared_in(folders, "teams").views] == [
        "product_prices",
        "loaves",
        "cheeses",
        "more",
    ]


def test_views_of_two_folders_with_one_name_are_refused(folders: Path) -> None:
    declare(folders, "one_features", VIEW.format(name="LOAVES"))
    declare(folders, "two_features", VIEW.format(name="LOAVES"))
    said = "'loaves' is declared twice, in teams/one_features/feature_views.py and teams/two_features/feature_views.py"
    with pytest.raises(DeclarationError, match=said):
        declared_in(folders, "teams")


def test_a_file_that_declares_nothing_is_refused(folders: Path) -> None:
    declare(folders, "empty_features", "VIEW = 1")
    with pytest.raises(DeclarationError, match=r"teams/empty_features/feature_views.py declares nothing"):
        declared_in(folders, "teams")


@pytest.mark.parametrize("name", ["pricing.bak", "my-team", "2nd"])
def test_a_folder_that_cannot_be_imported_is_named(folders: Path, name: str) -> None:
    declare(folders, name, VIEW.format(name="LOAVES"))
    with pytest.raises(DeclarationError, match=f"teams/{name}/feature_views.py cannot be imported: rename the folder"):
        declared_in(folders, "teams")


def test_two_declarations_of_one_name_are_refused() -> None:
    with pytest.raises(DeclarationError, match="declared twice: product_prices"):
        Catalogue((PRODUCT_PRICES, PRODUCT_PRICES))


def test_a_transform_of_an_undeclared_view_is_refused() -> None:
    with pytest.raises(DeclarationError, match="reads view 'product_prices', which no feature_views.py declares"):
        Catalogue((), (PROPOSED_DISCOUNT,))


def test_an_unknown_view_is_refused_with_those_there_are() -> None:
    with pytest.raises(DeclarationError, match="no view is called 'prices'; there are product_prices, "):
        catalogue().view("prices")


def test_an_entity_is_declared_once_for_all_views() -> None:
    assert PRODUCT in catalogue().entities
    assert len(catalogue().entities) == len({entity.name for entity in catalogue().entities})
