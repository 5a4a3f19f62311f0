"""What servers cost: a small demo on PostgreSQL (lake catalog, receipts, Dagster) and Redis against one on SQLite.

Belongs here: running both in turn, each in places of its own that are removed again. A round of
`python -m tests.benchmarks.storage` takes some minutes; the servers are those of HEADWATER_TEST_POSTGRES and
HEADWATER_TEST_REDIS_URL.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.table import Table

from resources.environment import REPOSITORY
from tests.servers import empty_database, empty_redis

AT_MOST = 1.5


def main() -> None:
    """Run the rounds and print medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.storage")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[dict[str, float]]] = {"SQLite": [], "PostgreSQL and Redis": []}
    for _ in range(rounds):
        found["SQLite"].append(_seconds({}))
        with _servers() as variables:
            found["PostgreSQL and Redis"].append(_seconds(variables))
    table = Table(
        "stage", *found, "ratio", title=f"Seconds of a small demo, median of {rounds}; at most {AT_MOST} in all"
    )
    stages = list(found["SQLite"][0])
    for stage in [*stages, "all"]:
        medians = [
            statistics.median(sum(one.values()) if stage == "all" else one[stage] for one in ones)
            for ones in found.values()
        ]
        table.add_row(stage, *(f"{median:.1f}" for median in medians), f"{medians[1] / medians[0]:.2f}")
    Console(width=140).print(table)


@contextmanager
def _servers() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        yield {
            "HEADWATER_CATALOG": stack.enter_context(empty_database()),
            "HEADWATER_DAGSTER_STORAGE": stack.enter_context(empty_database()),
            "HEADWATER_ONLINE_STORE": stack.enter_context(empty_redis()),
        }


def _seconds(variables: Mapping[str, str]) -> dict[str, float]:
    """Seconds by stage."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    with tempfile.TemporaryDirectory() as home:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.small_demo"],
            env={**given, **variables, "HEADWATER_HOME": home},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
