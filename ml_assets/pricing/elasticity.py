"""How demand answers to price: elasticities by category, with intervals.

Belongs here: estimating elasticities from past weeks. Not here: forecasting (`trainer.py`), choosing prices.

Method. Poisson regression of units on log price with an effect of each product and of each week, the mailer and the
displays held constant, since a price is mostly cut when the product is promoted too; what is left is what the price
does by itself. Weeks without a sale count: a regression of log units leaves them out, and with them most of what a high
price does (on the retail year it halves the elasticity). Product effects are conditioned away, so a product's units are
only compared with its own (Hausman, Hall and Griliches, Econometric Models for Count Data with an Application to the
Patents-R&D Relationship, Econometrica 52, 1984); the estimate needs no Poisson variance (Wooldridge, Distribution-Free
Estimation of Some Nonlinear Panel Data Models, Journal of Econometrics 90, 1999). For what to expect: Bijmolt, van
Heerde and Pieters, New Empirical Generalizations on the Determinants of Price Elasticity, Journal of Marketing Research
42 (2005).

The variance of an estimate is that of a bootstrap over products, the clusters of the panel, each draw going one Newton
step from the estimate (Kline and Santos, A Score Based Approach to Wild Bootstrap Inference, Journal of Econometric
Methods 1, 2012, compare such steps with fitting again). Each category is drawn to the mean of all by empirical Bayes,
the more so the larger its variance is against that between categories (Morris, Parametric Empirical Bayes Inference,
JASA 78, 1983; the variance between by DerSimonian and Laird, Meta-Analysis in Clinical Trials, Controlled Clinical
Trials 7, 1986).

What to keep in mind. The price of a week without a sale is not known; the last one is carried on, which draws the
elasticity to 0, so only products that sell in most weeks are read. A price that falls when a household takes several
makes many units look like the effect of the price, which draws it away from 0. No price was set at random.
"""

from collections.abc import Mapping
from statistics import NormalDist

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MINIMUM_WEEKS = 12
"""A product needs this many weeks with a sale,"""
MINIMUM_SHARE = 2 / 3
"""which are this share of those since its first,"""
MINIMUM_SPREAD = 0.03
"""and this much standard deviation of its log price;"""
MINIMUM_PRODUCTS = 5
"""a category needs this many such products to have an estimate of its own, the others get the mean of all."""
DRAWS = 200
COVERAGE = 0.9
SEED = 7
PASSES = 50

REGRESSORS = ("log_price", "mailer", "display")
SCHEMA = pa.schema(
    [
        ("category", pa.string()),
        ("products", pa.int64()),
        ("weeks", pa.int64()),
        ("estimate", pa.float64()),
        ("elasticity", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


def observations(
    connection: duckdb.DuckDBPyConnection,
    product_weeks: duckdb.DuckDBPyRelation,
    promotions: duckdb.DuckDBPyRelation,
    products: duckdb.DuckDBPyRelation,
) -> duckdb.DuckDBPyRelation:
    """What is regressed: the weeks since its first sale of each product that sells in most and whose price varied.

    Args:
        connection: where the relations live.
        product_weeks: rows of `commerce.product_weeks`, of the weeks before the one to decide on.
        promotions: rows of `commerce.int_promotions_summarized` of the same weeks.
        products: rows of `commerce.int_products_classified`.

    Returns:
        One row per product and week: category, product_id, week, units, log_price (of USD; the last known), mailer and
        display (in hundreds of stores).
    """
    product_weeks.create_view("elasticity_product_weeks", replace=True)
    promotions.create_view("elasticity_promotions", replace=True)
    products.create_view("elasticity_products", replace=True)
    return connection.sql(
        f"""
        with priced as (
            select
                product_id, week, units, case when price_usd >= 0.01 then ln(price_usd) end as log_price,
                round(1e6 * log_price)::hugeint as whole
            from elasticity_product_weeks
        ),
        -- The variance is one of whole numbers: that of fractions depends on the order in which they are read.
        varied as (
            select product_id from priced
            group by product_id
            having count(*) >= {MINIMUM_WEEKS}
                and count(whole) * sum(whole * whole) - sum(whole) ** 2 >= (1e6 * {MINIMUM_SPREAD} * count(whole)) ** 2
        ),
        panel as (
            select
                coalesce(product_category, department, '') as category, product_id, week,
                coalesce(units, 0) as units, (priced.units > 0)::integer as sold,
                last_value(log_price ignore nulls) over (partition by product_id order by week) as log_price,
                coalesce(mailer_stores, 0) / 100 as mailer, coalesce(display_stores, 0) / 100 as display
            from varied
            cross join (select distinct week from elasticity_product_weeks)
            left join priced using (product_id, week)
            left join elasticity_promotions using (product_id, week)
            left join elasticity_products using (product_id)
        )
        select * exclude (sold) from panel
        where log_price is not null
        qualify avg(coalesce(sold, 0)) over (partition by product_id) >= {MINIMUM_SHARE}
        order by product_id, week
        """
    )


def elasticities(rows: pa.Table, draws: int = DRAWS, seed: int = SEED) -> pa.Table:
    """Elasticity of each category of `observations`, and of all.

    Returns:
        One row per category, then one whose category is null, of all products: category, products, weeks (rows of
        theirs), estimate (its own regression; null with fewer than `MINIMUM_PRODUCTS` products), elasticity (drawn to
        the mean of all), low, high (its `COVERAGE` interval). Equal rows in any order give equal numbers.

    Raises:
        ValueError: no product's price varied enough.
    """
    if rows.num_rows == 0:
        raise ValueError(
            f"no product has {MINIMUM_WEEKS} weeks of sales, in most of its weeks and at prices that vary: "
            "give more weeks of product_weeks"
        )
    rows = rows.sort_by([("product_id", "ascending"), ("week", "ascending")])
    panel = _Panel(rows)
    rng = np.random.default_rng(seed)
    z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
    pooled, pooled_variance = panel.estimate(np.arange(panel.products), draws, rng)
    members = {name: np.flatnonzero(panel.category == name) for name in sorted(set(panel.category.tolist()))}
    judged = {name: panel.estimate(of, draws, rng) for name, of in members.items() if len(of) >= MINIMUM_PRODUCTS}
    centre, centre_variance, between = _mean_of_all(judged, pooled, pooled_variance)

    def row(name: str | None, of: Indices, estimate: float | None, mean: float, variance: float) -> dict[str, object]:
        spread = z * float(np.sqrt(variance))
        weeks = int(panel.weeks[of].sum())
        numbers = {"estimate": estimate, "elasticity": mean, "low": mean - spread, "high": mean + spread}
        return {"category": name, "products": len(of), "weeks": weeks, **numbers}

    found = []
    for name, of in members.items():
        if name not in judged:
            found.append(row(name, of, None, centre, centre_variance + between))
            continue
        estimate, variance = judged[name]
        own = between / (between + variance) if between + variance > 0 else 1.0
        mean = own * estimate + (1 - own) * centre
        found.append(row(name, of, estimate, mean, own * variance + (1 - own) ** 2 * centre_variance))
    found.append(row(None, np.arange(panel.products), pooled, centre, centre_variance))
    return pa.Table.from_pylist(found, schema=SCHEMA)


class _Panel:
    """Observations in order of product, with the effect of each week."""

    def __init__(self, rows: pa.Table) -> None:
        self.product = np.unique(rows["product_id"].to_numpy(), return_inverse=True)[1]
        week = np.unique(rows["week"].cast(pa.date32()).cast(pa.int32()).to_numpy(), return_inverse=True)[1]
        self.units = rows["units"].to_numpy().astype(np.float64)
        self.x = np.column_stack([rows[name].to_numpy().astype(np.float64) for name in REGRESSORS])
        self.weeks = np.bincount(self.product)
        self.products = len(self.weeks)
        self.ends = np.cumsum(self.weeks)
        self.category = np.empty(self.products, dtype=object)
        self.category[self.product] = rows["category"].to_numpy(zero_copy_only=False)
        # A product's price is only compared with its own; about 0 the exponentials stay small.
        self.x -= self._by_product(self.x)[self.product] / self.weeks[self.product, None]
        self.offset = np.zeros(len(self.units))
        beta = np.zeros(len(REGRESSORS))
        for _ in range(PASSES):
            before = beta
            beta = self._newton(np.arange(self.products), beta, steps=1)
            expected = self._expected(self.offset + _linear(self.x, beta))
            sums = np.bincount(week, expected)
            effect = np.log(np.maximum(np.bincount(week, self.units), 0.5) / np.maximum(sums, 1e-9))
            self.offset += effect[week]
            if np.abs(beta - before).max() < 1e-7 and np.abs(effect).max() < 1e-7:
                break

    def estimate(self, of: Indices, draws: int, rng: np.random.Generator) -> tuple[float, float]:
        """The elasticity of the products `of`, and its variance over draws of as many of them with replacement."""
        beta = self._newton(of, np.zeros(len(REGRESSORS)), steps=PASSES)
        score, information = self._score(of, beta)
        times = rng.multinomial(len(of), np.full(len(of), 1 / len(of)), size=draws).astype(np.float64)
        drawn = (
            beta[0] + _solved(np.einsum("dn,nij->dij", times, information), np.einsum("dn,ni->di", times, score))[:, 0]
        )
        return float(beta[0]), float(np.var(drawn, ddof=1))

    def _newton(self, of: Indices, beta: Numbers, steps: int) -> Numbers:
        for _ in range(steps):
            score, information = self._score(of, beta)
            step = _solved(information.sum(axis=0)[None], score.sum(axis=0)[None])[0]
            # The likelihood is concave; a first step that overshoots is what makes Newton's method fail on it.
            beta = beta + step.clip(-2.0, 2.0)
            if np.abs(step).max() < 1e-9:
                break
        return beta

    def _score(self, of: Indices, beta: Numbers) -> tuple[Numbers, Numbers]:
        """Each product's gradient and negative second derivative of the log likelihood given its sum of units."""
        chosen = self._rows(of)
        x, product = self.x[chosen], np.repeat(np.arange(len(of)), self.weeks[of])
        first = np.concatenate([[0], np.cumsum(self.weeks[of])[:-1]])
        weight = np.exp(self.offset[chosen] + _linear(x, beta))
        share = weight / np.add.reduceat(weight, first)[product]
        total = np.add.reduceat(self.units[chosen], first)
        mean = np.add.reduceat(share[:, None] * x, first)
        score = np.add.reduceat(self.units[chosen][:, None] * x, first) - total[:, None] * mean
        square = np.add.reduceat(share[:, None, None] * x[:, :, None] * x[:, None, :], first)
        return score, total[:, None, None] * (square - mean[:, :, None] * mean[:, None, :])

    def _expected(self, linear: Numbers) -> Numbers:
        weight = np.exp(linear)
        ratio = self._by_product(self.units) / self._by_product(weight)
        return np.asarray(weight * ratio[self.product])

    def _by_product(self, values: Numbers) -> Numbers:
        return np.asarray(np.add.reduceat(values, self.ends - self.weeks))

    def _rows(self, of: Indices) -> Indices:
        if len(of) == self.products:
            return np.arange(len(self.units))
        return np.concatenate([np.arange(self.ends[n] - self.weeks[n], self.ends[n]) for n in of])


def _linear(x: Numbers, beta: Numbers) -> Numbers:
    # Not `@`: how a matrix product is cut into threads decides its last bits, and a week must give the same bytes
    # on every machine.
    return np.asarray(np.einsum("nk,k->n", x, beta))


def _solved(information: Numbers, score: Numbers) -> Numbers:
    # A category that never was in the mailer has no coefficient for it; the pseudo-inverse gives it 0.
    return np.asarray(np.einsum("nij,nj->ni", np.linalg.pinv(information, rcond=1e-9, hermitian=True), score))


def _mean_of_all(
    judged: Mapping[str, tuple[float, float]], pooled: float, pooled_variance: float
) -> tuple[float, float, float]:
    """Mean over categories, its variance, and the variance between them; of few categories, the pooled regression's."""
    if len(judged) < 3:
        return pooled, pooled_variance, 0.0
    estimate, variance = (np.array(values) for values in zip(*judged.values(), strict=True))
    weight = 1 / np.maximum(variance, 1e-12)
    mean = (weight * estimate).sum() / weight.sum()
    excess = (weight * (estimate - mean) ** 2).sum() - (len(estimate) - 1)
    between = max(0.0, float(excess / (weight.sum() - (weight**2).sum() / weight.sum())))
    weight = 1 / np.maximum(variance + between, 1e-12)
    return float((weight * estimate).sum() / weight.sum()), float(1 / weight.sum()), between
