"""The measured comparisons: each prints a ratio against a named alternative, measured in the same run.

    make bench            every comparison
    python -m tests.benchmarks loading gate recovery

Needs what `make demo FULL=1` leaves behind in HEADWATER_HOME (default .headwater): the lake with the retail year. The
backfills write equal rows over it, in an instance of their own, so the demo's records stay as they are. The
redelivery is a real one, by the demo's own services, and is taken back by another.
"""

import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from platform_assets.definitions import build_defs
from platform_assets.instance.services import open_instance
from platform_assets.partition_checker import build, checker
from platform_assets.partition_checker.checker import PartitionChecker, admitted
from platform_assets.partition_checker.stored import Stored
from platform_assets.partitions import COMMERCE_DAILY, COMMERCE_WEEKLY
from platform_assets.plans.roots import PairStates, changed
from resources import dbt_server
from resources.dbt import Dbt
from resources.environment import Environment
from resources.ledger import Ledger
from resources.warehouse import TableName, Warehouse
from tests.benchmarks.redelivery import redelivered

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
        self.checker = PartitionChecker.of(environment)
        resources = {"warehouse": Warehouse.of(environment), "dbt": self.dbt, "checker": self.checker}
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
    bench.year()  # what dbt has written by itself has no receipts, and nothing is built upon it
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


def receipts(bench: Bench, table: Table) -> None:
    """The year of every commerce model with receipts against the same without counting, checksumming and recording."""
    ours = seconds(bench.year, LARGE_REPEATS)
    with without_receipts():
        bare = seconds(bench.year, LARGE_REPEATS)
    # What was stored meanwhile has no receipt that fits.
    bench.year()
    table.add_row(
        "year of all commerce models",
        f"{ours:.1f} s",
        "without receipts",
        f"{bare:.1f} s",
        f"{ours / bare:.2f}",
        "1.10",
    )


@contextlib.contextmanager
def without_receipts() -> Iterator[None]:
    """Steps that record their events only, and build on what others have left without a receipt."""
    with pytest.MonkeyPatch.context() as patch:
        nothing = Stored(0, "")
        patch.setattr(build, "kept_in_table", lambda catalog, key, partitions: dict.fromkeys(partitions, nothing))
        patch.setattr(checker, "refuse_unless_verified", lambda graph, asked, needed, judged: None)
        patch.setattr(Ledger, "record", lambda ledger, receipts: None)
        patch.setattr(Ledger, "begin", lambda ledger, pairs, run_id: None)
        yield


def gate(bench: Bench, table: Table) -> None:
    """What the gate adds to a run of one partition, and a check of every pair of the demo."""
    with open_instance(bench.environment) as instance:
        for title, names, partition in (
            ("gate of a day of all daily models", bench.models["daily"], "2017-03-01"),
            ("gate of a week of all weekly models", bench.models["weekly"], "2017-03-06"),
        ):
            asked = [f"commerce/{name}" for name in names]

            def passed(asked: Sequence[str] = asked, partition: str = partition) -> None:
                inspector = bench.checker.inspector(instance)
                nodes = [node for name, node in inspector.graph.named.items() if name in asked]
                admitted(inspector, {node.name: np.array([key == partition for key in node.pairs]) for node in nodes})

            passed()
            took = seconds(passed, SMALL_REPEATS)
            table.add_row(title, f"{1000 * took:.0f} ms", "", "", "", "100 ms")

        def checked() -> None:
            inspector = bench.checker.inspector(instance)
            inspector.judged(dict.fromkeys(inspector.graph.named))

        table.add_row("check of every pair of the demo", f"{seconds(checked, SMALL_REPEATS):.2f} s", "", "", "", "1 s")

        def planned() -> None:
            situation = PairStates.now(bench.checker.inspector(instance))
            situation.plan(changed(situation.graph, ["commerce/raw_transactions@2017-12-01..2017-12-30"]))

        table.add_row("plan over the demo's graph", f"{seconds(planned, SMALL_REPEATS):.2f} s", "", "", "", "1 s")


def scale(bench: Bench, table: Table) -> None:
    """A check of a million pairs and a plan over ten million, each in a process of its own."""
    for module, title, limit in (
        ("checking", "check of 1,000,000 pairs", "10 s, 2 GiB"),
        ("planning", "plan over 10,000 assets x 1,000 partitions", "10 s, 2 GiB"),
    ):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{module}"],
            check=True,
            capture_output=True,
            text=True,
        )
        table.add_row(title, done.stdout.strip().splitlines()[-1], "", "", "", limit)


def recovery(bench: Bench, table: Table) -> None:
    """A redelivery of 30 days of which 3 were corrected, against building all 30 and what depends on them again."""
    found = redelivered(bench.environment)
    table.add_row(
        "recovery of 30 days, 3 of them corrected",
        f"{found.cut_off_seconds:.0f} s, {found.computed} pairs computed",
        "all 30 days downstream",
        f"{found.whole_seconds:.0f} s, {found.whole} pairs",
        f"{found.cut_off_seconds / found.whole_seconds:.2f}",
        "0.30",
    )


BENCHMARKS = {
    "loading": loading,
    "one-day": one_day,
    "backfill": backfill,
    "receipts": receipts,
    "gate": gate,
    "scale": scale,
    "recovery": recovery,
}


def main(names: Sequence[str]) -> None:
    """Run the benchmarks called `names`, all of them when there are none."""
    environment = Environment.current()
    os.environ.update(environment.variables)
    warnings.filterwarnings("ignore", message="Parameter `")
    weeks = len(COMMERCE_WEEKLY.get_partition_keys())
    if len(Warehouse.of(environment).partitions(TableName("commerce", "product_weeks"))) < weeks:
        raise SystemExit(f"no demo of the whole year in {environment.home}: run make demo FULL=1 first")
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
    """The storage that the services use, and nothing reported."""
    from platform_assets.instance.services import instance_settings

    settings = instance_settings(Environment.of({"HEADWATER_HOME": folder}))
    return {name: settings[name] for name in ("run_storage", "event_log_storage", "schedule_storage", "telemetry")}


if __name__ == "__main__":
    main(sys.argv[1:])
