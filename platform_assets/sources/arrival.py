"""Arrivals: which partitions of a team's sources are new or changed, and the sensor that records them.
 Belongs here: comparing the landing zone with what is already recorded. Not here: how a delivery is
fingerprinted (`landing.py`) or judged (`validation.py`).
 An arrival is recorded as a materialization of the external upstream asset. Dagster's conditions see an
observation only of an asset that has an observation function of its own: of a plain external asset they look
at nothing but materializations, and so do the partition bars.
"""

import base64
import binascii
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import dagster as dg

from platform_assets.automation import SENSOR_INTERVAL_SECONDS
from platform_assets.partition_checker.deliveries import DATA_VERSION, delivered_versions
from platform_assets.sources.declaration import WHOLE, Source
from platform_assets.sources.landing import Delivery, Fingerprint, Landing, cause_of, fingerprint, look, scan
from resources.environment import DEFAULT_LIMITS, Environment, Limits

MOST_ARRIVALS_PER_TICK = 500
LONGEST_TICK_SECONDS = 20.0

Memo = dict[str, dict[str, str]]
"""Per source and partition: proof that files of this very signature are the recorded version."""


@dataclass(frozen=True)
class Arrival:
    """A partition whose content is not what is recorded for it."""

    source: Source
    delivery: Delivery
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Findings:
    """What one look at the landing zone found; `memo` is for the next look, `notes` are for people."""

    arrivals: list[Arrival] = field(default_factory=list)
    memo: Memo = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_arrivals(
    sources: Iterable[Source],
    root: Path,
    recorded: Callable[[Source], Mapping[str, str]],
    memo: Memo,
    most: int = MOST_ARRIVALS_PER_TICK,
    seconds: float = LONGEST_TICK_SECONDS,
    limits: Limits = DEFAULT_LIMITS,
) -> Findings:
    """Look at every source; read only files that `memo` does not vouch for, and stop at `most` or `seconds`.

    What is recorded decides: a lost memo costs reading the files again, never a repeated or a lost arrival.
    What does not fit into this look is found by the next. A partition that cannot be read is an arrival too, so that
    its check can name the cause; a source whose folder cannot be listed is noted. The others go on.

    Args:
        sources: those to look at.
        root: the landing zone.
        recorded: the data version last recorded, by partition, of a source.
        memo: the previous look's.
        most: arrivals to report at most.
        seconds: time after which no further delivery is read; one always is.
        limits: what a delivered file may take.
    """
    findings = Findings()
    pending: list[tuple[Source, Landing, Mapping[str, str]]] = []
    for source in sources:
        try:
            landing = scan(source, root)
        except OSError as error:
            findings.notes.append(f"{source.name}: its folder cannot be read, {cause_of(error)}: {error.filename}")
            continue
        findings.notes.extend(_remarks(source, landing))
        pending.append((source, landing, recorded(source)))
    # Looking at the folders does not count: each look gets on, however long that takes.
    deadline, read = time.monotonic() + seconds, 0
    # Small sources first, so that one with a long backlog does not keep the others waiting.
    for source, landing, versions in sorted(pending, key=lambda item: len(item[1].delivered)):
        known, vouched = memo.get(source.name, {}), findings.memo.setdefault(source.name, {})
        for partition, delivery in landing.delivered.items():
            version = versions.get(partition)
            if version and known.get(partition) == _proof(delivery, version):
                vouched[partition] = known[partition]
                continue
            if len(findings.arrivals) >= most or (read and time.monotonic() > deadline):
                continue
            read += 1
            found = fingerprint(source, delivery, limits)
            if look(source, root, partition) != delivery:
                continue  # replaced while it was read: complete again by the next look
            now = found.version_since(version)
            if found.is_settled:
                vouched[partition] = _proof(delivery, now)
            if now != version:
                findings.arrivals.append(Arrival(source, delivery, found))
    return findings


def recorded_versions(instance: dg.DagsterInstance, source: Source) -> Mapping[str, str]:
    """The data version last recorded for each partition of the upstream asset, from the event log."""
    versions = delivered_versions(instance, source.upstream_key, source.partitions is not None)
    return {partition or WHOLE: version for partition, version in versions.items()}


def materialization(arrival: Arrival) -> dg.AssetMaterialization:
    """The event that records `arrival` on the upstream asset."""
    delivery, rows = arrival.delivery, arrival.fingerprint.rows
    counted = {} if rows is None else {"dagster/partition_row_count": rows}
    return dg.AssetMaterialization(
        arrival.source.upstream_key,
        partition=delivery.partition if arrival.source.partitions else None,
        metadata={
            "files": len(delivery.files),
            "bytes": delivery.bytes,
            "delivered_at": dg.MetadataValue.timestamp(delivery.delivered_at),
            **counted,
        },
        tags={DATA_VERSION: arrival.fingerprint.data_version},
    )


def build_arrival_sensor(team: str, sources: Sequence[Source]) -> dg.SensorDefinition:
    """One sensor for all sources of `team`: every tick costs the daemon a call, however many it looks at."""

    @dg.sensor(
        name=f"{team}_arrivals",
        description=f"Records what is new or changed in the landing zone of {team}.",
        minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def arrivals(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        findings = find_arrivals(
            sources,
            Environment.current().landing,
            lambda source: recorded_versions(context.instance, source),
            unpack(context.cursor),
            limits=Environment.current().limits,
        )
        # Dagster stores the events before the cursor: a crash in between costs a second reading, no second
        # event.
        return dg.SensorResult(
            asset_events=[materialization(arrival) for arrival in findings.arrivals],
            cursor=pack(findings.memo),
            skip_reason="; ".join([f"{len(findings.arrivals)} partitions recorded", *findings.notes]),
        )

    return arrivals


def pack(memo: Memo) -> str:
    """The memo as a cursor: some 10 bytes a partition."""
    return base64.b64encode(zlib.compress(json.dumps(memo).encode(), 6)).decode()


def unpack(cursor: str | None) -> Memo:
    """The memo in a cursor; one that cannot be read vouches for nothing, which costs reading again."""
    try:
        return dict(json.loads(zlib.decompress(base64.b64decode(cursor or ""))))
    except (binascii.Error, zlib.error, ValueError):
        return {}


def _proof(delivery: Delivery, version: str) -> str:
    return blake2b(f"{delivery.signature} {version}".encode(), digest_size=6).hexdigest()


def _remarks(source: Source, found: Landing) -> Iterator[str]:
    if found.incomplete:
        yield f"{source.name}: {_few(found.incomplete)} without _SUCCESS, waiting for it"
    ends = {name: source.ends(name.removeprefix("dt=")) for name in found.unknown if name.startswith("dt=")}
    early = {name: end for name, end in ends.items() if end}
    if early:
        first = f"{min(early.values()):%Y-%m-%d %H:%M %Z}"
        yield f"{source.name}: {_few(list(early))} not ended yet, looked at then; the first ends at {first}"
    if unknown := [name for name in found.unknown if name not in early]:
        yield f"{source.name}: {_few(unknown)} not in its calendar, ignored; name it dt=<partition>"


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
