"""Recommended prices keep every rule and are as good as trying all prices of the grid."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_assets.pricing.recommendation import Rules, allowed_prices, broken_rules, gains, recommend

FREE = Rules(lowest_share=0.1, highest_share=5.0, step_share=0.9, category_share=10.0)


def product(**changes: Any) -> dict[str, Any]:
    row = {
        "product_id": 1,
        "category": "SOUP",
        "present_price_usd": 2.49,
        "regular_price_usd": 2.99,
        "expected_units": 10.0,
        "elasticity": -1.8,
        "elasticity_low": -1.9,
        "elasticity_high": -1.7,
    }
    return {**row, **changes}


@st.composite
def products(draw: st.DrawFn, most: int) -> list[dict[str, Any]]:
    rows = []
    for n in range(draw(st.integers(1, most))):
        regular = draw(st.integers(50, 900)) / 100
        elasticity = draw(st.floats(-4.0, -0.1))
        spread = draw(st.floats(0.0, 1.0))
        rows.append(
            product(
                product_id=n,
                regular_price_usd=regular,
                present_price_usd=round(regular * draw(st.floats(0.6, 1.1)), 2),
                expected_units=draw(st.floats(0.0, 50.0)),
                elasticity=elasticity,
                elasticity_low=elasticity - spread,
                elasticity_high=elasticity + spread,
            )
        )
    return rows


def rule_sets() -> st.SearchStrategy[Rules]:
    return st.builds(
        Rules,
        cost_share=st.sampled_from([None, 0.0, 0.3, 0.7]),
        highest_share=st.sampled_from([1.0, 1.2]),
        step_share=st.sampled_from([0.0, 0.1, 0.3]),
        endings_cents=st.sampled_from([(99,), (49, 99), (9, 29, 49, 79, 99)]),
        category_share=st.sampled_from([0.0, 0.01, 0.03, 1.0]),
    )


def certain(row: dict[str, Any], rules: Rules) -> list[float]:
    """The allowed prices that lose at neither end of the interval, by their definition."""
    found = []
    for price in allowed_prices(row["present_price_usd"], row["regular_price_usd"], rules):
        cost = (rules.cost_share or 0.0) * row["regular_price_usd"]
        present = row["present_price_usd"]
        brought_in = {
            end: (price - cost) * row["expected_units"] * (price / present) ** row[end]
            for end in ("elasticity_low", "elasticity_high")
        }
        if all(value >= (present - cost) * row["expected_units"] - 1e-9 for value in brought_in.values()):
            found.append(float(price))
    return found


@given(products(1), rule_sets())
def test_a_single_products_price_is_the_best_of_all_allowed(rows: list[dict[str, Any]], rules: Rules) -> None:
    row = rows[0]
    within = [
        price
        for price in certain(row, rules)
        if abs(price / row["present_price_usd"] - 1) <= rules.category_share + 1e-9
    ]
    oracle = max(gains(row, np.array(within), row["elasticity"], rules))
    found = recommend(pa.Table.from_pylist(rows), rules).to_pylist()[0]
    assert found["price_usd"] in within
    assert found["gain_usd"] == pytest.approx(oracle, abs=1e-7)


@given(products(6), rule_sets())
def test_every_price_keeps_every_rule(rows: list[dict[str, Any]], rules: Rules) -> None:
    by_id = {row["product_id"]: row for row in rows}
    found = recommend(pa.Table.from_pylist(rows), rules).to_pylist()
    assert [one["product_id"] for one in found] == sorted(by_id)
    weights, changes = [], []
    for one in found:
        row = by_id[one["product_id"]]
        price, present, regular = one["price_usd"], row["present_price_usd"], row["regular_price_usd"]
        weights.append(present * row["expected_units"])
        changes.append(price / present - 1)
        if price == present:
            continue
        assert round(price * 100) % 100 in rules.endings_cents
        assert abs(price / present - 1) <= rules.step_share + 1e-9
        assert rules.lowest_share * regular - 1e-9 <= price <= rules.highest_share * regular + 1e-9
        assert one["gain_low_usd"] >= -1e-9
    if sum(weights) > 0:
        assert abs(np.average(changes, weights=weights)) <= rules.category_share + 1e-8
    assert broken_rules(pa.Table.from_pylist(found), rules) == []


@pytest.mark.parametrize(
    ("price", "rules", "broken"),
    [
        (2.29, Rules(category_share=1.0), []),
        (2.49, Rules(), []),
        (2.24, Rules(category_share=1.0), ["steps of 10%: 1 products, the first 1", "the endings"]),
        (2.35, Rules(category_share=1.0), ["the endings: 1 products, the first 1"]),
        (2.689, Rules(category_share=1.0), ["the endings"]),
        (2.69, Rules(category_share=1.0, highest_share=0.85), ["bounds of 70% to 85% of the regular price"]),
        (2.29, Rules(), ["mean prices of categories within 3%: 1 categories, the first SOUP by -8.03%"]),
        (-2.49, Rules(), ["a price above 0", "bounds", "steps", "the endings", "mean prices"]),
    ],
)
def test_a_broken_rule_is_named_with_the_first_that_breaks_it(price: float, rules: Rules, broken: list[str]) -> None:
    rows = recommend(pa.Table.from_pylist([product()]), Rules(step_share=0.0))
    found = broken_rules(rows.set_column(rows.column_names.index("price_usd"), "price_usd", pa.array([price])), rules)
    assert len(found) == len(broken)
    assert all(one.startswith(expected) for one, expected in zip(found, broken, strict=True))


@given(products(6), rule_sets(), st.integers(0, 5), st.sampled_from([0.3, 0.6, 1.5, 4.0]))
def test_a_price_that_is_moved_past_its_step_is_found(
    rows: list[dict[str, Any]], rules: Rules, which: int, factor: float
) -> None:
    found = recommend(pa.Table.from_pylist(rows), rules)
    prices = found["price_usd"].to_pylist()
    at = which % len(prices)
    prices[at] = factor * found["present_price_usd"][at].as_py()
    moved = found.set_column(found.column_names.index("price_usd"), "price_usd", pa.array(prices))
    named = f"steps of {rules.step_share:.0%}: 1 products, the first {found['product_id'][at].as_py()}"
    assert named in broken_rules(moved, rules)


def test_a_categorys_prices_are_nearly_as_good_as_trying_all_combinations() -> None:
    rng = np.random.default_rng(3)
    rules = Rules(highest_share=1.3, step_share=0.15, endings_cents=(19, 49, 79, 99), category_share=0.02)
    reached, best, bound = 0.0, 0.0, 0
    for _ in range(60):
        rows = [
            product(
                product_id=n,
                regular_price_usd=float(regular),
                present_price_usd=float(regular),
                expected_units=float(units),
                elasticity=float(elasticity),
                elasticity_low=float(elasticity) - 0.05,
                elasticity_high=float(elasticity) + 0.05,
            )
            for n, (regular, units, elasticity) in enumerate(
                zip(rng.integers(199, 700, 4) / 100, rng.gamma(1, 10, 4), rng.uniform(-2.5, -0.3, 4), strict=True)
            )
        ]
        brought_in = np.array([row["present_price_usd"] * row["expected_units"] for row in rows])
        grids = [certain(row, rules) for row in rows]
        values = [
            dict(zip(grid, gains(row, np.array(grid), row["elasticity"], rules), strict=True))
            for row, grid in zip(rows, grids, strict=True)
        ]
        oracle = max(
            sum(value[price] for value, price in zip(values, prices, strict=True))
            for prices in itertools.product(*grids)
            if abs(
                np.average(
                    [p / r["present_price_usd"] - 1 for p, r in zip(prices, rows, strict=True)], weights=brought_in
                )
            )
            <= rules.category_share + 1e-9
        )
        found = recommend(pa.Table.from_pylist(rows), rules).to_pylist()
        gained = sum(one["gain_usd"] for one in found)
        assert gained <= oracle + 1e-7
        reached, best = reached + gained, best + oracle
        bound += any(one["rule"] == "category" for one in found)
    assert bound > 20
    assert reached >= 0.9 * best


def test_without_rules_in_the_way_the_margin_is_that_of_the_textbook() -> None:
    rules = Rules(
        cost_share=0.5,
        lowest_share=0.1,
        highest_share=5.0,
        step_share=0.9,
        category_share=10.0,
        endings_cents=tuple(range(100)),
    )
    row = product(elasticity=-3.0, elasticity_low=-3.0, elasticity_high=-3.0)
    found = recommend(pa.Table.from_pylist([row]), rules).to_pylist()[0]
    # Lerner: (price - cost) / price = 1 / 3.
    assert found["price_usd"] == pytest.approx(0.5 * 2.99 * 3 / 2, abs=0.006)
    assert found["rule"] == "none"


@pytest.mark.parametrize(
    ("changes", "rules", "price", "rule"),
    [
        ({"elasticity": -1.8}, Rules(), 2.29, "step"),
        ({"present_price_usd": 2.99}, Rules(lowest_share=0.95, step_share=0.5, category_share=1), 2.89, "bounds"),
        ({}, Rules(lowest_share=0.1, step_share=0.5, category_share=1, endings_cents=(85,)), 1.85, "step"),
        ({"elasticity_high": -0.9}, Rules(category_share=1.0), 2.49, "uncertain"),
        ({}, Rules(category_share=0.01), 2.49, "category"),
        ({"elasticity": -1.0, "elasticity_low": -1.0, "elasticity_high": -1.0}, Rules(), 2.49, "none"),
    ],
)
def test_the_binding_rule_is_named(changes: dict[str, Any], rules: Rules, price: float, rule: str) -> None:
    if rule == "step":
        rules = Rules(**{**rules.__dict__, "category_share": 1.0})
    found = recommend(pa.Table.from_pylist([product(**changes)]), rules).to_pylist()[0]
    assert (found["price_usd"], found["rule"]) == (price, rule)


def test_the_reason_says_what_why_and_which_rule_binds() -> None:
    found = recommend(pa.Table.from_pylist([product()]), Rules(category_share=1.0)).to_pylist()[0]
    assert found["reason"] == (
        "Lower 2.49 to 2.29 USD: +1.73 USD revenue a week (elasticity -1.80); a larger step than 10% would gain more."
    )


def test_a_product_nobody_is_expected_to_buy_keeps_its_price() -> None:
    found = recommend(pa.Table.from_pylist([product(expected_units=0.0)]), FREE).to_pylist()[0]
    assert found["price_usd"] == 2.49


def test_a_fraction_of_a_cent_is_no_change_of_price() -> None:
    for present in (2.489999, 2.4900000000000002, 2.4931):
        prices = allowed_prices(present, 2.99, Rules())
        assert present in prices
        assert np.diff(prices).min() >= 0.005


def test_products_without_a_price_are_refused_by_number() -> None:
    with pytest.raises(ValueError, match=r"product 1: present price 0\.0"):
        recommend(pa.Table.from_pylist([product(present_price_usd=0.0)]), Rules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lowest_share": 1.2}, "bounds"),
        ({"cost_share": 1.0}, "cost share"),
        ({"step_share": 1.0}, "step"),
        ({"endings_cents": ()}, "endings"),
    ],
)
def test_rules_that_nothing_can_keep_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(**settings)
