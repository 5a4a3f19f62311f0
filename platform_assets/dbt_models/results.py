"""What a running `dbt build` has shown so far: which pairs are built *and* have passed their tests.

Belongs here: pure bookkeeping of dbt's results. Not here: Dagster events, storage.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_GOOD = {"success", "pass", "warn", "no-op"}
_ENDED = {"pass", "warn", "fail"}
"""How a test ends that came to a verdict; else it could not be asked, or was not."""
_ERROR_CHARACTERS = 500
_JUDGED = "headwater judged "
"""How the line begins by which a data test tells what it found; see dbt/macros/data_tests.sql."""


@dataclass(frozen=True)
class Found:
    """What a test found in one partition: rows, and whether they are enough to warn or to fail."""

    failures: int
    warns: bool
    fails: bool


@dataclass(frozen=True)
class Findings:
    """What a test found, by partition, in those without a row, and in rows that say no partition."""

    by_partition: Mapping[str, Found] = field(default_factory=dict)
    elsewhere: Found = Found(0, False, False)
    everywhere: Found | None = None

    def of(self, partition: str) -> Found:
        """What it found in one partition; rows of no partition count in each."""
        own = self.by_partition.get(partition, self.elsewhere)
        every = self.everywhere
        if every is None:
            return own
        return Found(own.failures + every.failures, own.warns or every.warns, own.fails or every.fails)

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> tuple[str, "Findings"] | None:
        """Read a test's unique id and what it found off a line of the log; None from every other line."""
        said = event["info"]["msg"]
        if event["info"]["name"] != "JinjaLogInfo" or not said.startswith(_JUDGED):
            return None
        told = json.loads(said.removeprefix(_JUDGED))
        by_partition: dict[str, Found] = {}
        elsewhere, everywhere = cls.elsewhere, cls.everywhere
        for row in told["found"]:
            found = Found(row["failures"], bool(row["warns"]), bool(row["fails"]))
            if not row["has_rows"]:
                elsewhere = found
            elif row["partition"] is None:
                everywhere = found
            else:
                by_partition[row["partition"]] = found
        return told["test"], cls(by_partition, elsewhere, everywhere)


@dataclass(frozen=True)
class NodeResult:
    """How one model or test ended."""

    unique_id: str
    status: str
    message: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether what depends on this node may go on."""
        return self.status in _GOOD

    @property
    def judged(self) -> bool:
        """Whether this is a test that came to a verdict."""
        return self.status in _ENDED

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> "NodeResult":
        """Read dbt's structured log event of a finished node."""
        data = event["data"]
        return cls(
            unique_id=data["node_info"]["unique_id"],
            status=data["node_info"]["node_status"],
            message=event["info"]["msg"],
            seconds=float(data.get("execution_time") or 0.0),
        )


@dataclass
class Outcome:
    """Holds each built pair back until the tests that judge it have passed.

    dbt stores a model before it tests it. Recording a pair as materialized only after its tests have passed is what
    makes "materialized" mean "there, and judged good" to everything downstream, partition by partition.
    """

    tests_of: Mapping[str, frozenset[str]]
    partitions: Sequence[str]
    results: dict[str, NodeResult] = field(default_factory=dict)
    findings: dict[str, Findings] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """What dbt said of nodes that broke, in its order."""
    _good: dict[str, list[str]] = field(default_factory=dict)

    def add(self, result: NodeResult) -> Iterator[tuple[NodeResult, list[str]]]:
        """Take one result in; yields the models that it completes, with the partitions that passed every test."""
        self.results[result.unique_id] = result
        for model, tests in self.tests_of.items():
            if model in self._good or not all(node in self.results for node in (model, *tests)):
                continue
            self._good[model] = self._passing(model)
            yield self.results[model], self._good[model]

    def found(self, test: str, partition: str) -> Found:
        """What a test found in a partition."""
        return self.findings.get(test, Findings()).of(partition)

    def failing(self, test: str) -> frozenset[str]:
        """The partitions that a test fails: all of them, if it broke, or fails and tells of none that was asked for."""
        result = self.results[test]
        if result.passed:
            return frozenset()
        told = frozenset(partition for partition in self.partitions if self.found(test, partition).fails)
        return told or frozenset(self.partitions)

    def warning(self, test: str) -> frozenset[str]:
        """The partitions that a test warns of."""
        if self.results[test].status not in ("fail", "warn"):
            return frozenset()
        told = frozenset(partition for partition in self.partitions if self.found(test, partition).warns)
        if self.results[test].status == "warn":
            return told or frozenset(self.partitions)
        return told - self.failing(test)

    def bad(self, model: str) -> list[str]:
        """The partitions of a model that are not to be tried again in this run.

        Of a model that dbt left out, or did not test to the end, because something before it failed, these are the
        partitions in which it is known to fail: the others may come when what failed is out of the way.
        """
        if model in self._good or not self._failed:
            good = set(self._good.get(model, ()))
            return [partition for partition in self.partitions if partition not in good]
        if model in self.results and not self.results[model].passed:
            return list(self.partitions)
        failing = self._failing_any(test for test in self.tests_of[model] if test in self.results)
        return [partition for partition in self.partitions if partition in failing]

    @property
    def broken(self) -> list[str]:
        """Models with bad partitions, in name order."""
        return sorted(model for model in self.tests_of if self.bad(model))

    def reasons(self) -> list[str]:
        """What failed, in dbt's words and by partition; or what never ran."""
        said = []
        for result in self._failed:
            told = result.unique_id in self.findings and self.partitions != [""]
            failing = sorted(self.failing(result.unique_id)) if told else []
            said.append(f"{result.message}{' in ' + _few(failing) if failing else ''}")
        if said:
            return [*said, *dict.fromkeys(" ".join(error.split())[:_ERROR_CHARACTERS] for error in self.errors)]
        silent = sorted({node for one in self.tests_of for node in (one, *self.tests_of[one])} - self.results.keys())
        stale = ["the dbt project changed since these definitions were loaded; reload them"] if silent else []
        return [*stale, *(f"{node} did not run" for node in silent)]

    @property
    def _failed(self) -> list[NodeResult]:
        return [result for result in self.results.values() if not result.passed]

    def _failing_any(self, tests: Iterable[str]) -> frozenset[str]:
        return frozenset[str]().union(*(self.failing(test) for test in tests))

    def _passing(self, model: str) -> list[str]:
        if not self.results[model].passed:
            return []
        failing = self._failing_any(self.tests_of[model])
        return [partition for partition in self.partitions if partition not in failing]


def _few(partitions: Sequence[str], most: int = 3) -> str:
    return ", ".join(partitions[:most]) + (f" and {len(partitions) - most} more" if len(partitions) > most else "")
