"""The measured comparisons: each prints a ratio against a named alternative, measured in the same run.

    make bench            every comparison
    python -m tests.benchmarks loading one-day backfill

Needs what `make demo` leaves behind in HEADWATER_HOME (default .headwater): the lake with the retail year. The
backfills write equal rows over it, in an instance of their own, so the demo's records stay as they are.
"""

import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.table import Table

from platform_assets.definitions import build_defs
from platform_assets.partitions import COMMERCE_DAILY, COMMERCE_WEEKLY
from resources import dbt_server
from resources.dbt import Dbt
from resources.environment import Environment
from resources.warehouse import Warehouse

LARGE_REPEATS = 3
SMALL_REPEATS = 5
YEAR = ["--event-time-start", "2017-01-01", "--event-time-end", "2018-01-01"]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median duration of `work`."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


class Bench:
    """The lake of the demo, and a location over it whose runs are recorded in an instance of their own."""

    def __init__(self, environment: Environment, instance: dg.DagsterInstance) -> None:
        self.environment, self.instance = environment, instance
        self.dbt = Dbt.of(environment)
        resources = {"warehouse": Warehouse.of(environment), "dbt": self.dbt}
        self.job = build_defs(resources=resources).resolve_implicit_global_asset_job_def()
        nodes = self.dbt.manifest()["nodes"].values()
        self.models = {
            grain: [
                node["name"]
                for node in nodes
                if node["resource_type"] == "model"
                and node["schema"] == "commerce"
                and node["config"]["meta"]["partitions"] == grain
            ]
            for grain in ("none", "daily", "weekly")
        }

    def run(self, models: Sequence[str], first: str | None = None, last: str | None = None) -> None:
        """One Dagster run in this process."""
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            done = self.job.execute_in_process(
                instance=self.instance,
                run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
                tags={key: value for key, value in tags.items() if value} if first else {},
                asset_selection=[dg.AssetKey(["commerce", model]) for model in models],
            )
        assert done.success

    def bare(self, arguments: Sequence[str]) -> None:
        """dbt by itself."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "partial_parse.msgpack").write_bytes(
                (self.environment.dbt_target / "partial_parse.msgpack").read_bytes()
            )
            subprocess.run(
                [str(Path(sys.executable).with_name("dbt")), *arguments],
                cwd=self.dbt.project,
                env={
                    **os.environ,
                    **self.dbt.variables,
                    "DBT_PROFILES_DIR": self.dbt.project,
                    "DBT_TARGET_PATH": folder,
                    "DBT_LOG_PATH": folder,
                },
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def year(self) -> None:
        """Every commerce model over the retail year: one run for each calendar."""
        days, weeks = COMMERCE_DAILY.get_partition_keys(), COMMERCE_WEEKLY.get_partition_keys()
        self.run(self.models["none"])
        self.run(self.models["daily"], days[0], days[-1])
        self.run(self.models["weekly"], weeks[0], weeks[-1])


def backfill(bench: Bench, table: Table) -> None:
    """The year of every commerce model against a bare dbt build, and against going day by day."""
    everything = [model for models in bench.models.values() for model in models]
    ours = seconds(bench.year, LARGE_REPEATS)
    bare = seconds(
        lambda: bench.bare(["build", "--exclude-resource-type", "unit_test", "--select", *everything, *YEAR]),
        LARGE_REPEATS,
    )
    table.add_row(
        "year of all commerce models", f"{ours:.1f} s", "bare dbt build", f"{bare:.1f} s", f"{ours / bare:.2f}", "1.30"
    )
    days = iter(["2017-03-01", "2017-06-01", "2017-09-01"])
    one = seconds(lambda: bench.run(bench.models["daily"], next(days)), LARGE_REPEATS)
    whole = seconds(lambda: bench.run(bench.models["daily"], "2017-01-01", "2017-12-31"), 1)
    by_day = one * len(COMMERCE_DAILY.get_partition_keys())
    table.add_row(
        "daily models, one run", f"{whole:.1f} s", "364 x one day", f"{by_day:.0f} s", f"1/{by_day / whole:.0f}", "1/20"
    )


def one_day(bench: Bench, table: Table) -> None:
    """Rebuilding one day of all daily models against a dbt run that builds nothing."""
    ours = seconds(lambda: bench.run(bench.models["daily"], "2017-03-01"), SMALL_REPEATS)
    empty = seconds(
        lambda: bench.bare(["run", "--select", "nothing_is_called_this", "--warn-error-options", '{"error": []}']),
        SMALL_REPEATS,
    )
    table.add_row(
        "one day of all daily models", f"{ours:.1f} s", "empty dbt run", f"{empty:.1f} s", f"{ours / empty:.2f}", "2.00"
    )


def loading(bench: Bench, table: Table) -> None:
    """Loading each code location against importing dagster and dagster_dbt."""

    def python(code: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True), SMALL_REPEATS)

    imports = python("import dagster, dagster_dbt")
    for location in ("platform_assets", "ml_assets"):
        ours = python(f"from {location}.definitions import defs; defs().get_repository_def()")
        table.add_row(
            f"loading {location}",
            f"{ours:.2f} s",
            "import dagster, dagster_dbt",
            f"{imports:.2f} s",
            f"{ours / imports:.2f}",
            "1.50",
        )


BENCHMARKS = {"loading": loading, "one-day": one_day, "backfill": backfill}


def main(names: Sequence[str]) -> None:
    """Run the benchmarks called `names`, all of them when there are none."""
    environment = Environment.current()
    os.environ.update(environment.variables)
    if not (environment.home / "demo-report.json").exists():
        raise SystemExit(f"no demo in {environment.home}: run make demo first")
    # As in a run worker; imported by then, before any thread is there.
    for module in dbt_server.PRELOADED:
        importlib.import_module(module)
    dbt_server.start()
    table = Table("what", "ours", "against", "theirs", "ratio", "at most", title="Medians, ratios in one run")
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder, _storage(folder)) as instance:
        bench = Bench(environment, instance)
        for name in names or BENCHMARKS:
            BENCHMARKS[name](bench, table)
    Console(width=140).print(table)


def _storage(folder: str) -> dict[str, object]:
    """The storage that the services use."""
    from platform_assets.operations.services import instance_settings

    settings = instance_settings(Environment.of({"HEADWATER_HOME": folder}))
    return {name: settings[name] for name in ("run_storage", "event_log_storage", "schedule_storage")}


if __name__ == "__main__":
    main(sys.argv[1:])
