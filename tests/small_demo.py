"""Demos that a test and a benchmark can afford: weeks of sales, days of reading, the last three days by sensors.

`python -m tests.small_demo` runs the larger in the environment of the process, and prints its seconds by stage as JSON.
"""

import json
import os
from datetime import date

from ml_assets.demo.extent import Extent
from ml_assets.demo.main_job import Outcome, run_demo
from platform_assets.progress import progress
from resources.environment import Environment

THREE_WEEKS = Extent(
    {"commerce": (date(2016, 12, 26), date(2017, 1, 15)), "webtoon": (date(2017, 12, 4), date(2017, 12, 9))},
    new_days=3,
)
TWO_WEEKS_OF_SALES = Extent({"commerce": (date(2016, 12, 26), date(2017, 1, 8))}, new_days=3)


def small_demo(environment: Environment, extent: Extent = THREE_WEEKS) -> Outcome:
    """Run it in `environment`, which has to be the process's own."""
    with progress() as shown:
        return run_demo(environment, shown, extent, new_days=extent.new_days, seed=7, scale=0.02)


if __name__ == "__main__":
    own = Environment.current()
    os.environ.update(own.variables)
    print(json.dumps(small_demo(own).seconds))
