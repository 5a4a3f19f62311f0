"""What the stages of the main job show, in a line each, and where to look in the web UI.

Belongs here: the words, and telling when an asset has got there. Not here: building (`main_job.py`).
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

import dagster as dg


@dataclass(frozen=True)
class Milestone:
    """What can be looked at once all pairs of `asset` that a backfill builds are there."""

    asset: str
    shows: str

    @property
    def key(self) -> dg.AssetKey:
        """The key of the asset."""
        return dg.AssetKey(self.asset.split("/"))

    def __str__(self) -> str:
        return f"{self.shows}: see Assets > {' > '.join(self.key.path)}"


MILESTONES = (
    Milestone("commerce/raw_transactions", "Sources: each delivery is inspected, stored as it is, and has a receipt"),
    Milestone("commerce/product_weeks", "dbt: staging, intermediate and marts by their windows, tests as asset checks"),
    Milestone("commerce/demand_signals_online", "Features: point in time in training, the same values online"),
    Milestone("commerce/product_demand_candidate", "Model: a partition is a fold, trained on what was known then"),
    Milestone("commerce/product_demand_evaluation", "Gate: naive forecasts and the champion have to be beaten"),
    Milestone("commerce/product_demand_predictions", "Forecast: units of each product, with an interval"),
    Milestone("commerce/price_recommendations", "Prices: what to set each product's to, and why not another"),
)

BEGUN = {
    "start": "Deliveries land while Headwater starts; sensors notice them: see Automation > commerce_arrivals",
    "history": "History: one backfill across both code locations: see Runs > Backfills",
    "day": "A new day: sensors and automation carry it to forecast and prices, no command given: see Runs",
    "freshness": "Freshness: what was expected by now against what is there: see the check freshness of any asset",
}
"""What each stage shows, told when it begins."""


def reached(before: Mapping[dg.AssetKey, Set[str]], now: Mapping[dg.AssetKey, Set[str]]) -> Iterator[Milestone]:
    """The milestones with pairs missing in `before` and none of them in `now`."""
    for one in MILESTONES:
        if before.get(one.key) and not now.get(one.key):
            yield one
