"""What a model's `config.meta` says, or says wrong."""

from typing import Any

import pytest

from platform_assets.dbt_models.translator import _product


def node(layer: str, **meta: Any) -> dict[str, Any]:
    return {"fqn": ["shop", layer, "days"], "config": {"meta": meta}, "original_file_path": f"models/{layer}/days.sql"}


@pytest.mark.parametrize(
    ("found", "is_product"),
    [
        (node("marts"), True),
        (node("staging"), False),
        (node("marts", product=False), False),
        (node("staging", product=True), True),
    ],
)
def test_marts_are_products_unless_a_model_says_otherwise(found: dict[str, Any], is_product: bool) -> None:
    assert bool(_product(found)) is is_product


@pytest.mark.parametrize("said", ["no", "maybe", 1, None])
def test_what_is_neither_true_nor_false_is_refused_by_the_models_file(said: object) -> None:
    with pytest.raises(ValueError, match=r"models/marts/days.sql: config.meta.product is .*; allowed: true, false"):
        _product(node("marts", product=said))
