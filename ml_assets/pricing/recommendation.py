"""Which price to set: the best one that the rules allow, and in words why.

Belongs here: the rules, the choice, its reason. Not here: forecasting (`trainer.py`), how demand answers to price
(`elasticity.py`), setting any price.

Units at a price are the units expected at the present price times (price / present price) ** elasticity. The retail
data have no cost, so margin is computed with a declared share of the regular price; without one, revenue is maximised.

The guard-rail of a category couples its products: choosing one price each under a limit on their mean is a
multiple-choice knapsack problem (Sinha and Zoltners, The Multiple-Choice Knapsack Problem, Operations Research 27,
1979). It is solved as there by steps along each product's efficient prices, cheapest first, starting from every
product's own best price; what a whole last step leaves unused is then filled where it pays.
"""

import heapq
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.float64]

TOLERANCE = 1e-9
SCHEMA = pa.schema(
    [
        ("product_id", pa.int64()),
        ("category", pa.string()),
        ("regular_price_usd", pa.float64()),
        ("present_price_usd", pa.float64()),
        ("price_usd", pa.float64()),
        ("present_units", pa.float64()),
        ("expected_units", pa.float64()),
        ("gain_usd", pa.float64()),
        ("gain_low_usd", pa.float64()),
        ("gain_high_usd", pa.float64()),
        ("rule", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Rules:
    """What a recommended price must keep to. Keeping the present price is always allowed.

    Shares are of the price named; prices end in one of `endings_cents`.
    """

    cost_share: float | None = None
    """Cost of a unit as a share of its regular price, declared and not measured; None maximises revenue."""
    lowest_share: float = 0.7
    highest_share: float = 1.0
    """Bounds, as shares of the regular price."""
    step_share: float = 0.1
    """Largest change, as a share of the present price."""
    endings_cents: tuple[int, ...] = (9, 19, 29, 39, 49, 59, 69, 79, 89, 99)
    category_share: float = 0.03
    """Largest change of a category's mean price, its products weighted by what they now bring in."""

    def __post_init__(self) -> None:
        """Refuse rules that nothing can keep to."""
        if not 0 < self.lowest_share <= self.highest_share:
            raise ValueError(f"bounds {self.lowest_share} to {self.highest_share}: need 0 < lowest <= highest")
        if self.cost_share is not None and not 0 <= self.cost_share < 1:
            raise ValueError(f"cost share {self.cost_share}: need at least 0 and less than 1")
        if not 0 <= self.step_share < 1 or self.category_share < 0:
            raise ValueError(f"step {self.step_share}, category change {self.category_share}: need 0 or more, step < 1")
        if not self.endings_cents or not all(0 <= cents < 100 for cents in self.endings_cents):
            raise ValueError(f"price endings {self.endings_cents}: need some, each from 0 to 99 cents")


@dataclass
class _Choice:
    """A product's allowed prices in ascending order, what each gains, and which is chosen."""

    prices: Numbers
    gains: Numbers
    changes: Numbers
    """Of the category's mean price."""
    present: int
    chosen: int
    rule: str

    @property
    def gain(self) -> float:
        return float(self.gains[self.chosen])


def recommend(products: pa.Table, rules: Rules) -> pa.Table:
    """One price per product.

    Args:
        products: product_id, category, present_price_usd, regular_price_usd, expected_units (a week, at the present
            price), elasticity, elasticity_low, elasticity_high.
        rules: what to keep to.

    Returns:
        `SCHEMA`, one row per product in order of product_id. Gains are of revenue or margin a week against the present
        price, low and high at the ends of the elasticity's interval. `rule` is what keeps the price from gaining more:
        none, step, bounds, endings, uncertain, category.

    Raises:
        ValueError: a price or an expectation that cannot be.
    """
    rows = products.sort_by("product_id").to_pylist()
    for row in rows:
        numbers = row["present_price_usd"], row["regular_price_usd"], row["expected_units"]
        if not (all(map(math.isfinite, numbers)) and numbers[0] > 0 and numbers[1] > 0 and numbers[2] >= 0):
            raise ValueError(
                f"product {row['product_id']}: present price {row['present_price_usd']}, regular price "
                f"{row['regular_price_usd']}, expected units {row['expected_units']}; "
                "leave out products without a price"
            )
    categories: dict[str, list[int]] = {}
    for n, row in enumerate(rows):
        categories.setdefault(row["category"], []).append(n)
    choices: list[_Choice | None] = [None] * len(rows)
    for members in categories.values():
        brought_in = np.array([rows[n]["present_price_usd"] * rows[n]["expected_units"] for n in members])
        total = brought_in.sum()
        shares = brought_in / total if total > 0 else np.full(len(members), 1 / len(members))
        of_category = [_best(rows[n], share, rules) for n, share in zip(members, shares, strict=True)]
        _keep_within(of_category, rules.category_share)
        for n, choice in zip(members, of_category, strict=True):
            choices[n] = choice
    found = [_row(row, choice, rules) for row, choice in zip(rows, choices, strict=True) if choice is not None]
    return pa.Table.from_pylist(found, schema=SCHEMA)


def broken_rules(recommended: pa.Table, rules: Rules) -> list[str]:
    """The rules that rows of `recommend` break, in words, each with the first product or category that does.

    It looks at the prices alone, whatever chose them.
    """
    product, category = (recommended[name].to_numpy(zero_copy_only=False) for name in ("product_id", "category"))
    regular, present, price, units = (
        recommended[name].to_numpy(zero_copy_only=False)
        for name in ("regular_price_usd", "present_price_usd", "price_usd", "present_units")
    )
    cents = np.round(100 * price)
    kept = price == present
    within = (price >= rules.lowest_share * regular - TOLERANCE) & (price <= rules.highest_share * regular + TOLERANCE)
    judged = {
        "a price above 0": price > 0,
        f"bounds of {rules.lowest_share:.0%} to {rules.highest_share:.0%} of the regular price": kept | within,
        f"steps of {rules.step_share:.0%}": np.abs(price - present) <= rules.step_share * present + TOLERANCE,
        "the endings": kept | (np.isin(cents % 100, rules.endings_cents) & (np.abs(cents - 100 * price) < 1e-6)),
    }
    found = [
        f"{rule}: {(~kept_to).sum()} products, the first {product[np.argmin(kept_to)]}"
        for rule, kept_to in judged.items()
        if not kept_to.all()
    ]
    names, of = np.unique(category.astype(str), return_inverse=True)
    brought_in = present * units
    total = np.bincount(of, brought_in)
    weight = np.where(total[of] > 0, brought_in, 1.0)
    change = np.bincount(of, weight * (price / present - 1)) / np.bincount(of, weight)
    moved = np.abs(change) > rules.category_share + 1e-8
    if moved.any():
        first = int(np.argmax(moved))
        found.append(
            f"mean prices of categories within {rules.category_share:.0%}: {moved.sum()} categories, the first "
            f"{names[first]} by {change[first]:+.2%}"
        )
    return found


def gains(row: dict[str, float], prices: Numbers, elasticity: float, rules: Rules) -> Numbers:
    """What a week brings in at each of `prices` more than at the present price, in USD."""
    present = row["present_price_usd"]
    cost = 0.0 if rules.cost_share is None else rules.cost_share * row["regular_price_usd"]
    units = row["expected_units"] * (prices / present) ** elasticity
    return np.asarray((prices - cost) * units - (present - cost) * row["expected_units"])


def allowed_prices(present: float, regular: float, rules: Rules) -> Numbers:
    """The prices of the grid within bounds and step, ascending, the present one among them."""
    lowest = max(rules.lowest_share * regular, (1 - rules.step_share) * present)
    highest = min(rules.highest_share * regular, (1 + rules.step_share) * present)
    return _grid(lowest, highest, present, rules.endings_cents)


def _grid(lowest: float, highest: float, present: float, endings_cents: tuple[int, ...]) -> Numbers:
    dollars = np.arange(int(max(lowest, 0)), int(max(highest, 0)) + 1)
    prices = (dollars[:, None] * 100 + _ascending(endings_cents)).ravel() / 100
    lowest = max(lowest, 0.01)
    prices = prices[prices.searchsorted(lowest - TOLERANCE) : prices.searchsorted(highest + TOLERANCE, "right")]
    # A present price is often a mean and not in whole cents; less than half a cent from it is no other price.
    others = prices[np.abs(prices - present) >= 0.005]
    at = others.searchsorted(present)
    return np.concatenate((others[:at], [present], others[at:]))


@cache
def _ascending(endings_cents: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.unique(endings_cents)


def _best(row: dict[str, float], share: float, rules: Rules) -> _Choice:
    present, regular = row["present_price_usd"], row["regular_price_usd"]
    every = allowed_prices(present, regular, rules)
    gain = gains(row, every, row["elasticity"], rules)
    worst = np.minimum(
        gains(row, every, row["elasticity_low"], rules), gains(row, every, row["elasticity_high"], rules)
    )
    # A change that loses at one end of the elasticity's interval is a gamble.
    prices, gain = every[worst >= -TOLERANCE], gain[worst >= -TOLERANCE]
    kept = int(np.flatnonzero(prices == present)[0])
    choice = _Choice(prices, gain, share * (prices / present - 1), kept, _chosen(gain, kept), "none")

    def beaten(others: Numbers) -> bool:
        return bool(gains(row, others, row["elasticity"], rules).max() > choice.gain + TOLERANCE)

    endings = rules.endings_cents
    bounds = (rules.lowest_share * regular, rules.highest_share * regular)
    step = ((1 - rules.step_share) * present, (1 + rules.step_share) * present)
    if beaten(every):
        choice.rule = "uncertain"
    elif beaten(_grid(*bounds, present, endings)):
        choice.rule = "step"
    elif beaten(_grid(*step, present, endings)):
        choice.rule = "bounds"
    elif beaten(_grid(max(bounds[0], step[0]), min(bounds[1], step[1]), present, tuple(range(100)))):
        choice.rule = "endings"
    return choice


def _chosen(gain: Numbers, kept: int) -> int:
    """The best price; of equally good ones the present, else the lowest."""
    good = np.flatnonzero(gain >= gain.max() - TOLERANCE)
    return kept if kept in good else int(good[0])


def _keep_within(choices: list[_Choice], limit: float) -> None:
    """Change `choices` of one category until its mean price changes by at most `limit`."""
    change = sum(float(choice.changes[choice.chosen]) for choice in choices)
    if abs(change) <= limit + TOLERANCE:
        return
    side = np.sign(change)
    wanted = [choice.chosen for choice in choices]
    # A step depends on its own product alone, so only that of the product that took one is looked for again.
    steps = [step for n, choice in enumerate(choices) if (step := _cheapest_step(n, choice, side)) is not None]
    heapq.heapify(steps)
    while side * change > limit + TOLERANCE:
        _, n, price = heapq.heappop(steps)
        change += float(choices[n].changes[price] - choices[n].changes[choices[n].chosen])
        choices[n].chosen = price
        if (step := _cheapest_step(n, choices[n], side)) is not None:
            heapq.heappush(steps, step)
    if side * change < -limit - TOLERANCE:
        # One product outweighs the rest, and its step went past the other limit.
        for choice in choices:
            choice.chosen = choice.present
        change = 0.0
    while (better := _best_filling(choices, change, limit)) is not None:
        _, n, price = better
        change += float(choices[n].changes[price] - choices[n].changes[choices[n].chosen])
        choices[n].chosen = price
    for choice, before in zip(choices, wanted, strict=True):
        if choice.chosen != before:
            choice.rule = "category"


def _cheapest_step(n: int, choice: _Choice, side: float) -> tuple[float, int, int] | None:
    """The step that loses least for each part of the change that it takes back: loss per change, product, price."""
    back = side * (choice.changes[choice.chosen] - choice.changes)
    steps = np.flatnonzero(back > TOLERANCE / 1000)
    if len(steps) == 0:
        return None
    loss = (choice.gain - choice.gains[steps]) / back[steps]
    best = int(np.argmin(loss))
    return float(loss[best]), n, int(steps[best])


def _best_filling(choices: list[_Choice], change: float, limit: float) -> tuple[float, int, int] | None:
    """The single change of price that gains most and keeps the limit: gain, product, price."""
    found: tuple[float, int, int] | None = None
    for n, choice in enumerate(choices):
        after = change + choice.changes - choice.changes[choice.chosen]
        gain = np.where(np.abs(after) <= limit + TOLERANCE, choice.gains - choice.gain, -np.inf)
        best = int(np.argmax(gain))
        if gain[best] > TOLERANCE and (found is None or gain[best] > found[0]):
            found = float(gain[best]), n, best
    return found


_RULES = {
    "none": "no rule stands in the way of a better price",
    "step": "a larger step than {step:.0%} would gain more",
    "bounds": "a price outside {lowest:.0%} to {highest:.0%} of the regular price would gain more",
    "endings": "a price with another ending would gain more",
    "uncertain": "a price that would gain more loses at an end of the elasticity's interval, {low:.2f} to {high:.2f}",
    "category": "its category's mean price may change by {category:.0%} at most, and other products gain more by it",
}


def _row(row: dict[str, float], choice: _Choice, rules: Rules) -> dict[str, object]:
    price, present = float(choice.prices[choice.chosen]), row["present_price_usd"]
    low, high = sorted(
        float(gains(row, np.array([price]), row[end], rules)[0]) for end in ("elasticity_low", "elasticity_high")
    )
    aim = "revenue" if rules.cost_share is None else f"margin at a cost of {rules.cost_share:.0%} of the regular price"
    if price == present:
        what = f"Keep {present:.2f} USD"
    else:
        verb = "Lower" if price < present else "Raise"
        what = f"{verb} {present:.2f} to {price:.2f} USD: {choice.gain:+.2f} USD {aim} a week"
    limit = _RULES[choice.rule].format(
        step=rules.step_share,
        lowest=rules.lowest_share,
        highest=rules.highest_share,
        low=row["elasticity_low"],
        high=row["elasticity_high"],
        category=rules.category_share,
    )
    return {
        "product_id": row["product_id"],
        "category": row["category"],
        "regular_price_usd": row["regular_price_usd"],
        "present_price_usd": present,
        "price_usd": price,
        "present_units": row["expected_units"],
        "expected_units": row["expected_units"] * (price / present) ** row["elasticity"],
        "gain_usd": choice.gain,
        "gain_low_usd": min(low, choice.gain),
        "gain_high_usd": max(high, choice.gain),
        "rule": choice.rule,
        "reason": f"{what} (elasticity {row['elasticity']:.2f}); {limit}.",
    }
