"""Which of the real and synthetic data a demo delivers, and in which order days arrive.

Belongs here: spans of days, and the deliveries that they come to. Not here: delivering
(`platform_assets/feed/`), building.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from platform_assets.feed.delivery import select, source_of

PLANS = "commerce.promotions"
"""Known before its week begins: it arrives with the last day before."""

Selection = dict[str, tuple[str, ...]]
"""Partition keys by source, as the feed takes them."""


class ExtentError(ValueError):
    """More new days than an extent has; the message says how many it has."""


@dataclass(frozen=True)
class Extent:
    """The first and last day that arrive, by team. What comes after has simply not been delivered.

    The last `new_days` of them are left to automation, unless somebody wants more or fewer.
    """

    days: Mapping[str, tuple[date, date]]
    new_days: int

    def history(self, new_days: int) -> Selection:
        """All but the last `new_days`.

        Raises:
            ExtentError: nothing would be left.
        """
        longest = min((last - first).days for first, last in self.days.values())
        if new_days > longest:
            raise ExtentError(f"{new_days} new days leave no history: at most {longest} here")
        return self._between({team: (first, last - timedelta(new_days)) for team, (first, last) in self.days.items()})

    def day(self, back: int) -> Selection:
        """The day that lies `back` days before the last of each team."""
        on = {team: last - timedelta(back) for team, (_, last) in self.days.items()}
        return self._between({team: (day, day) for team, day in on.items()})

    def named(self, back: int) -> str:
        """The same day in words: one date, or one a team where these differ."""
        on = {team: last - timedelta(back) for team, (_, last) in self.days.items()}
        if len(set(on.values())) == 1:
            return str(next(iter(on.values())))
        return ", ".join(f"{day} ({team})" for team, day in on.items())

    def _between(self, spans: Mapping[str, tuple[date, date]]) -> Selection:
        found: Selection = {}
        for team, (first, last) in spans.items():
            found |= select([team], f"{first}..{last}")
            planned = str(last + timedelta(1))
            if PLANS.startswith(f"{team}.") and planned in source_of(PLANS).partition_keys():
                found[PLANS] = (*found.get(PLANS, ()), planned)
        return found


SHORT = Extent(
    {
        "commerce": (date(2016, 12, 26), date(2017, 7, 9)),
        "webtoon": (date(2017, 12, 4), date(2017, 12, 10)),
    },
    new_days=1,
)
"""The least that shows the whole path. A fold of the demand forecast learns from half a year of weeks, and what is
known in each of them comes from all weeks before, so a quarter of the year holds no fold at all: the first that can be
built is the one of 2017-07-03, at the end of the first half. A week more shows what it then came to, and gives a second
fold that has a champion to beat."""

FULL = Extent(
    {
        "commerce": (date(2016, 12, 26), date(2017, 12, 31)),
        "webtoon": (date(2017, 12, 4), date(2017, 12, 31)),
    },
    new_days=2,
)
"""All that there is: 27 folds, of which 26 have ended, and the summary of the half year that they are."""
