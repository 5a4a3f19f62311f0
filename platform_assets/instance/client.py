"""What we ask of a running Dagster over its GraphQL interface, the same one the web UI uses.

Belongs here: requests and their answers as plain data. Not here: deciding what to launch.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

_SILENCE_SECONDS = 600
"""After this long without a byte a connection is given up; a busy machine takes minutes over a large answer."""


class DagsterRefused(RuntimeError):
    """Dagster answered with an error; the message is its own."""


@dataclass(frozen=True)
class BackfillStatus:
    """How far a backfill is: its status and the count of its pairs by state."""

    id: str
    status: str
    targeted: int
    materialized: int
    failed: int
    error: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED")


class Client:
    """GraphQL requests to the web server at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def is_up(self) -> bool:
        """Whether the server answers and has loaded every code location.

        Raises:
            DagsterRefused: a code location failed to load; the message carries its error.
        """
        try:
            entries = self._ask(_LOCATIONS)["workspaceOrError"]["locationEntries"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        for entry in entries:
            loaded = entry["locationOrLoadError"]
            if loaded and loaded["__typename"] == "PythonError":
                raise DagsterRefused(f"code location {entry['name']} does not load: {loaded['message']}")
        return all(entry["loadStatus"] == "LOADED" for entry in entries)

    def launch_backfill(
        self,
        title: str,
        ranges: Mapping[dg.AssetKey, Sequence[tuple[str, str]] | None],
        tags: Mapping[str, str],
    ) -> str:
        """Launch one backfill of exactly `ranges` of each asset (None: an unpartitioned asset); returns its id."""
        partitions = [
            {
                "assetKey": {"path": list(key.path)},
                "partitions": found and {"ranges": [{"start": first, "end": last} for first, last in found]},
            }
            for key, found in ranges.items()
        ]
        answer = self._ask(
            _LAUNCH_BACKFILL,
            params={
                "title": title,
                "partitionsByAssets": partitions,
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        )["launchPartitionBackfill"]
        return str(_wanted(answer, "LaunchBackfillSuccess")["backfillId"])

    def backfill(self, backfill_id: str) -> BackfillStatus:
        """How far backfill `backfill_id` is."""
        found = _wanted(self._ask(_BACKFILL, id=backfill_id)["partitionBackfillOrError"], "PartitionBackfill")
        counts = {"targeted": 0, "materialized": 0, "failed": 0}
        for status in (found["assetBackfillData"] or {"assetBackfillStatuses": []})["assetBackfillStatuses"]:
            if "numPartitionsTargeted" in status:
                counts["targeted"] += status["numPartitionsTargeted"]
                counts["materialized"] += status["numPartitionsMaterialized"]
                counts["failed"] += status["numPartitionsFailed"]
            else:
                counts["targeted"] += 1
                counts["materialized"] += status["materialized"]
                counts["failed"] += status["failed"]
        error = found["error"]
        return BackfillStatus(found["id"], found["status"], error=error and error["message"], **counts)

    def active_runs(self) -> int:
        """Runs that are queued, starting or running."""
        statuses = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
        return int(self._ask(_COUNT_RUNS, filter={"statuses": statuses})["runsOrError"]["count"])

    def run_status(self, run_id: str) -> str:
        """The status of a run."""
        return str(_wanted(self._ask(_RUN, id=run_id)["runOrError"], "Run")["status"])

    def set_sensor(self, location: str, name: str, on: bool) -> None:
        """Turn a sensor on or off."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "sensorName": name,
        }
        if on:
            _wanted(self._ask(_START_SENSOR, selector=selector)["startSensor"], "Sensor")
            return
        found = _wanted(self._ask(_SENSOR, selector=selector)["sensorOrError"], "Sensor")
        answer = self._ask(_STOP_SENSOR, id=found["sensorState"]["id"])["stopSensor"]
        _wanted(answer, "StopSensorMutationResult")

    def launch_job(self, location: str, job: str) -> str:
        """Launch a job of a code location; returns the run's id."""
        params = {
            "selector": {
                "repositoryLocationName": location,
                "repositoryName": "__repository__",
                "jobName": job,
            },
            "runConfigData": "{}",
            "mode": "default",
        }
        answer = self._ask(_LAUNCH_RUN, params=params)["launchRun"]
        return str(_wanted(answer, "LaunchRunSuccess")["run"]["runId"])

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=_SILENCE_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise DagsterRefused(error.read().decode()[:2000]) from error
        if "errors" in answer:
            raise DagsterRefused("; ".join(error["message"] for error in answer["errors"]))
        return dict(answer["data"])


def _wanted(answer: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    if answer["__typename"] != kind:
        raise DagsterRefused(answer.get("message") or answer["__typename"])
    return answer


_LOCATIONS = """
query Locations { workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""
_LAUNCH_BACKFILL = """
mutation Launch($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  ... on PartitionKeysNotFoundError { message } ... on UnauthorizedError { message } } }
"""
_BACKFILL = """
query Backfill($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PythonError { message } ... on BackfillNotFoundError { message }
  ... on PartitionBackfill { id status error { message } assetBackfillData { assetBackfillStatuses {
    ... on AssetPartitionsStatusCounts { numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed }
    ... on UnpartitionedAssetStatus { materialized failed } } } } } }
"""
_COUNT_RUNS = """
query CountRuns($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1) { ... on Runs { count } } }
"""
_RUN = """
query OneRun($id: ID!) { runOrError(runId: $id) { __typename ... on Run { status }
  ... on RunNotFoundError { message } ... on PythonError { message } } }
"""
_SENSOR = """
query OneSensor($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { __typename
  ... on Sensor { sensorState { id } } ... on SensorNotFoundError { message } ... on PythonError { message } } }
"""
_START_SENSOR = """
mutation Start($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename
  ... on SensorNotFoundError { message } ... on PythonError { message } } }
"""
_STOP_SENSOR = """
mutation Stop($id: String!) { stopSensor(id: $id) { __typename ... on PythonError { message } } }
"""
_LAUNCH_RUN = """
mutation LaunchRun($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on InvalidSubsetError { message } ... on RunConfigValidationInvalid { errors { message } } } }
"""
