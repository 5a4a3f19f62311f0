"""What a running `dbt build` has shown so far: which models are built *and* have passed their tests.

Belongs here: pure bookkeeping of dbt's results. Not here: Dagster events, storage.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_GOOD = {"success", "pass", "warn", "no-op"}


@dataclass(frozen=True)
class NodeResult:
    """How one model or test ended."""

    unique_id: str
    status: str
    message: str
    seconds: float
    failures: int

    @property
    def passed(self) -> bool:
        """Whether what depends on this node may go on."""
        return self.status in _GOOD

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> "NodeResult":
        """Read dbt's structured log event of a finished node."""
        data = event["data"]
        return cls(
            unique_id=data["node_info"]["unique_id"],
            status=data["node_info"]["node_status"],
            message=event["info"]["msg"],
            seconds=float(data.get("execution_time") or 0.0),
            failures=int(data.get("num_failures") or 0),
        )


@dataclass
class Verdicts:
    """Holds each built model back until the tests that judge it have passed.

    dbt stores a model before it tests it. Recording it as materialized only after its tests have passed is what
    makes "materialized" mean "there, and judged good" to everything downstream, partition by partition.
    """

    tests_of: Mapping[str, frozenset[str]]
    results: dict[str, NodeResult] = field(default_factory=dict)
    _recorded: set[str] = field(default_factory=set)

    def add(self, result: NodeResult) -> Iterator[NodeResult]:
        """Take one result in; yields the models that it completes."""
        self.results[result.unique_id] = result
        for model, tests in self.tests_of.items():
            if model in self._recorded or model not in self.results:
                continue
            if all(node in self.results and self.results[node].passed for node in (model, *tests)):
                self._recorded.add(model)
                yield self.results[model]

    def reasons(self) -> list[str]:
        """Why models are withheld: what failed, and what never ran."""
        failed = [result.message for result in self.results.values() if not result.passed]
        wanted = {node for model in self.withheld for node in (model, *self.tests_of[model])}
        silent = sorted(wanted - self.results.keys())
        if silent and not failed:
            failed = ["the dbt project changed since these definitions were loaded; reload them"]
        return [*failed, *(f"{node} did not run" for node in silent)]

    @property
    def withheld(self) -> list[str]:
        """Models that were asked for and are not recorded, in name order."""
        return sorted(self.tests_of.keys() - self._recorded)
