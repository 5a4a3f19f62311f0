"""A small grocery: weeks of sales by product, made from a seed."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa

FIRST_WEEK = date(2016, 12, 26)


def weeks_from(first: str, count: int) -> list[str]:
    return [(date.fromisoformat(first) + timedelta(weeks=n)).isoformat() for n in range(count)]


def grocery(weeks: int, products: int, seed: int = 0, level: float = 1.0) -> pa.Table:
    """Product weeks with heavy-tailed Poisson sales; as in the mart, a week without a sale has no row."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.6, 2.5 * level, size=products)
    units = rng.poisson(rate, size=(weeks, products))
    week, product = np.nonzero(units)
    sold = units[week, product]
    regular = np.round(1 + 9 * rng.random(products), 2)[product]
    depth = np.where(rng.random(len(sold)) < 0.2, 0.25, 0.0)
    promoted = rng.integers(0, 40, size=len(sold))
    monday = [FIRST_WEEK + timedelta(weeks=int(n)) for n in week]
    return pa.table(
        {
            "week": monday,
            "product_id": product.astype("int64") + 1000,
            "units": sold.astype("int64"),
            "households": np.maximum(1, sold // 2).astype("int64"),
            "regular_price_usd": regular,
            "price_usd": regular * (1 - depth),
            "discount_depth": depth,
            "display_stores": promoted // 4,
            "mailer_stores": promoted // 2,
            "promoted_stores": promoted,
            "partition_key": [day.isoformat() for day in monday],
        }
    )
