"""The asset graph of every code location as plain data: calendars, dependencies, which pairs need which.

Belongs here: loading the locations that workspace.yaml names, keeping what was loaded for processes that need the
graph at once, and pure set arithmetic on pairs. Not here: launching anything.
"""

import fcntl
import hashlib
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property, lru_cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, cast

import dagster as dg
import numpy as np
import yaml
from dagster._core.definitions.partitions.snap.snap import PartitionsSnap
from dagster._time import get_current_datetime

from platform_assets.completeness import Completeness, completeness_of
from platform_assets.partition_checker.requirements import (
    IntArray,
    Requirement,
    compile_requirement,
    last_key,
    partition_ends,
)
from resources.environment import REPOSITORY

WORKSPACE = REPOSITORY / "workspace.yaml"
UNPARTITIONED = ""
"""The one pair of an asset without partitions."""

EQUAL_VERSIONS = "headwater/equal_code_versions"
"""Metadata of a spec: the other versions of its code that store the same as the present one."""

_CODE = ("resources", "platform_assets", "ml_assets", "dbt")
_SUFFIXES = (".py", ".sql", ".yml", ".yaml")
_STUB = "dagster/auto_created_stub_asset"
"""Marks what Dagster adds for an upstream asset of another code location, of which it knows nothing but the key."""
_STDERR_CHARACTERS = 500
_MODELS = {"lightgbm", "mlflow", "torch", "sklearn"}


def code_locations() -> dict[str, str]:
    """The modules of the code locations by name, as workspace.yaml says."""
    entries = [entry["python_module"] for entry in yaml.safe_load(WORKSPACE.read_text())["load_from"]]
    return {entry["location_name"]: entry["module_name"] for entry in entries}


@dataclass(frozen=True)
class Node:
    """An asset: the location that builds it (None: an upstream system does), its calendar and dependencies.

    `deps` holds the declared partition mappings; None is Dagster's default. `is_product` marks what people and
    products look at: marts, ML models, whatever nobody of ours reads. `as_of` is the moment at which it has its pairs:
    a calendar without an end gains them by the passing of time. `equal_versions` are other versions of the code that
    store the same as the present one.
    """

    key: dg.AssetKey
    location: str | None
    calendar: dg.PartitionsDefinition | None
    deps: Mapping[dg.AssetKey, dg.PartitionMapping | None]
    checks: Sequence[dg.AssetCheckKey] = ()
    code_version: str | None = None
    completeness: Completeness = Completeness()
    is_product: bool = False
    equal_versions: Sequence[str] = ()
    as_of: datetime | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The key as receipts and commands write it: team/entity."""
        return "/".join(self.key.path)

    def is_current(self, version: str) -> bool:
        """Whether code of that version stores what the present code does."""
        return version == self.code_version or version in self.equal_versions

    @cached_property
    def pairs(self) -> Sequence[str]:
        """Every partition key, in order of time."""
        if self.calendar is None:
            return [UNPARTITIONED]
        with dg.partition_loading_context(self.as_of):
            return _keys(self.calendar, last_key(self.calendar))

    @cached_property
    def ends(self) -> IntArray:
        """When each pair of an asset with a time calendar ends, in seconds since 1970; empty for any other."""
        if not isinstance(self.calendar, dg.TimeWindowPartitionsDefinition):
            return np.zeros(0, np.int64)
        with dg.partition_loading_context(self.as_of):
            return partition_ends(self.calendar)


@dataclass(frozen=True)
class Graph:
    """Assets of every code location in topological order, with the pairs that there are at one moment.

    Whatever is asked of it, however much later, is answered for that moment: pairs are numbers in arrays, which have to
    fit together across the end of a day.
    """

    nodes: Mapping[dg.AssetKey, Node]
    as_of: datetime = field(default_factory=get_current_datetime, compare=False)

    @classmethod
    def of(cls, locations: Mapping[str, dg.Definitions]) -> "Graph":
        """Join the definitions of several code locations into one graph.

        Raises:
            ValueError: an asset depends on one that no location declares.
        """
        return cls.joined([node for name, definitions in locations.items() for node in _nodes(name, definitions)])

    @classmethod
    def joined(cls, found: Sequence[Node]) -> "Graph":
        """The graph of these assets.

        Raises:
            ValueError: an asset depends on one that is not among them.
        """
        as_of = get_current_datetime()
        nodes = {node.key: replace(node, as_of=as_of) for node in found}
        for node in nodes.values():
            for key in node.deps.keys() - nodes.keys():
                raise ValueError(f"{node.key.to_user_string()} depends on {key.to_user_string()}, declared nowhere")
        # Sorted, so that equal graphs have one order, in whatever order their assets were found.
        before = {key: sorted(nodes[key].deps.keys() - {key}) for key in sorted(nodes)}
        return cls({key: nodes[key] for key in TopologicalSorter(before).static_order()}, as_of)

    @classmethod
    def of_workspace(cls) -> "Graph":
        """The graph of the locations that workspace.yaml names, loaded in this process."""
        return cls.of({name: importlib.import_module(module).defs() for name, module in code_locations().items()})

    @cached_property
    def named(self) -> Mapping[str, Node]:
        """The assets by name, in topological order."""
        return {node.name: node for node in self.nodes.values()}

    @property
    def built(self) -> list[Node]:
        """The assets that Headwater builds, in topological order."""
        return [node for node in self.nodes.values() if node.location]

    def node(self, name: str) -> Node:
        """The asset called `name`, team/entity.

        Raises:
            KeyError: there is none; the message suggests the nearest.
        """
        if name not in self.named:
            from difflib import get_close_matches

            close = get_close_matches(name, self.named, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(sorted(self.named))}"
            raise KeyError(f"no asset is called {name!r}; {hint}")
        return self.named[name]

    def requirement(self, node: Node, upstream: dg.AssetKey) -> Requirement:
        """Which pairs of `upstream` the pairs of `node` need."""
        with dg.partition_loading_context(self.as_of):
            return compile_requirement(node.calendar, self.nodes[upstream].calendar, node.deps[upstream])

    def requirements(self, node: Node) -> dict[str, Requirement]:
        """Which pairs of each upstream asset the pairs of `node` need, by the name of the asset."""
        return {self.nodes[key].name: self.requirement(node, key) for key in node.deps}

    def buildable(self, delivered: Mapping[dg.AssetKey, Set[str]]) -> dict[dg.AssetKey, set[str]]:
        """The pairs whose whole required upstream is delivered or itself buildable.

        Args:
            delivered: for each upstream asset the partition keys that have arrived.
        """
        absent: dict[dg.AssetKey, np.ndarray[Any, np.dtype[np.bool_]]] = {}
        found: dict[dg.AssetKey, set[str]] = {}
        for key, node in self.nodes.items():
            if node.location is None:
                arrived = delivered.get(key, set())
                absent[key] = np.array([pair not in arrived for pair in node.pairs], np.bool_)
            else:
                absent[key] = np.zeros(len(node.pairs), np.bool_)
                for upstream in node.deps.keys() - {key}:
                    if node.completeness.needs(self.nodes[upstream].name):
                        absent[key] |= self.requirement(node, upstream).affected(absent[upstream])
            found[key] = {pair for pair, lacks in zip(node.pairs, absent[key].tolist(), strict=True) if not lacks}
        return found


class GraphError(RuntimeError):
    """The graph is not known, as a code location does not load; the message names it, the cause and what to do."""


def workspace_graph(home: Path) -> Graph:
    """The graph of the locations that workspace.yaml names, kept under `home` until a file of the code changes.

    Loading every location takes seconds; a run worker has loaded only its own and needs the whole graph at once. What
    does not load answers nothing: an older graph knows nothing of what is asked today, and half of one would let pairs
    pass whose upstream it does not see.

    Raises:
        GraphError: a location does not load, or an asset depends on one that no location declares.
    """
    kept = home / "graph.json"
    signature = _signature()
    known = _kept(kept, signature)
    if known is None:
        home.mkdir(parents=True, exist_ok=True)
        with (home / "graph.lock").open("w") as lock:
            # One process loads; the others wait for what it finds.
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = _kept(kept, signature) or _load(kept, signature)
    return _joined(known)


def _kept(kept: Path, signature: str) -> Mapping[str, Any] | None:
    try:
        known = json.loads(kept.read_text())
    except (FileNotFoundError, ValueError):
        return None
    locations: Mapping[str, Any] | None = known["locations"] if known.get("signature") == signature else None
    return locations


def _load(kept: Path, signature: str) -> Mapping[str, Any]:
    """Load every location anew, and keep what they declare if that is a graph.

    Raises:
        GraphError: it is none.
    """
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        file = Path(folder) / "found.json"
        done = subprocess.run(
            [sys.executable, "-m", "platform_assets.operations.load_graph", str(file)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            # A location whose code ends the process says nothing of itself.
            words = done.stderr.strip()[-_STDERR_CHARACTERS:]
            broken = json.loads(file.read_text())["broken"] if file.exists() else f"code locations do not load: {words}"
            raise GraphError(f"{broken}. Nothing is known of any pair until it does: mend it, then do this again")
        found = json.loads(file.read_text())
        _joined(found["locations"])
        file.write_text(json.dumps({"signature": signature, **found}))
        file.replace(kept)
    locations: Mapping[str, Any] = found["locations"]
    return locations


def _joined(locations: Mapping[str, Any]) -> Graph:
    try:
        return Graph.joined([_from_json(node) for nodes in locations.values() for node in nodes])
    except ValueError as error:
        raise GraphError(
            f"the code locations make no graph: {error}. Correct one of the two, then do this again"
        ) from error


def declared_assets(location: str, definitions: dg.Definitions) -> list[dict[str, Any]]:
    """The assets of a location as plain data, as they are kept."""
    return [_to_json(node) for node in _nodes(location, definitions)]


def _signature() -> str:
    """Changes with any file that a definition may come from, and with Dagster."""
    digest = hashlib.sha256(dg.__version__.encode())
    paths = [WORKSPACE, *(path for folder in _CODE for path in sorted((REPOSITORY / folder).rglob("*")))]
    for path in paths:
        if path.suffix in _SUFFIXES:
            stat = path.stat()
            digest.update(f"{path.relative_to(REPOSITORY)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _nodes(location: str, definitions: dg.Definitions) -> list[Node]:
    """The assets that `definitions` declares."""
    asset_graph = definitions.resolve_asset_graph()
    specs = [spec for spec in definitions.resolve_all_asset_specs() if not spec.metadata.get(_STUB)]
    read = {dep.asset_key for spec in specs for dep in spec.deps}
    found = []
    for spec in specs:
        executable = asset_graph.get(spec.key).is_executable
        _refuse_dynamic(spec)
        found.append(
            Node(
                spec.key,
                location if executable else None,
                spec.partitions_def,
                {dep.asset_key: dep.partition_mapping for dep in spec.deps},
                sorted(asset_graph.get_check_keys_for_assets({spec.key})),
                spec.code_version,
                completeness_of(spec),
                executable
                and (spec.tags.get("layer") == "marts" or bool(spec.kinds & _MODELS) or spec.key not in read),
                tuple(spec.metadata.get(EQUAL_VERSIONS, ())),
            )
        )
    return found


@lru_cache(maxsize=64)
def _keys(calendar: dg.PartitionsDefinition, last: object) -> Sequence[str]:
    """The keys of a calendar, which many assets share; `last` only tells apart what it was at different times."""
    return calendar.get_partition_keys()


def _refuse_dynamic(spec: dg.AssetSpec) -> None:
    if isinstance(spec.partitions_def, dg.DynamicPartitionsDefinition):
        raise TypeError(
            f"{spec.key.to_user_string()} has dynamic partitions, which nothing expects to be complete: "
            "give it time, static or multi partitions"
        )


def ranges(calendar: dg.PartitionsDefinition, keys: Set[str]) -> list[tuple[str, str]]:
    """`keys` as the fewest (first, last) ranges of consecutive partitions."""
    subset = calendar.subset_with_partition_keys(keys)
    return [(found.start, found.end) for found in subset.get_partition_key_ranges(calendar)]


def _to_json(node: Node) -> dict[str, Any]:
    return {
        "key": list(node.key.path),
        "location": node.location,
        "calendar": node.calendar and _packed(PartitionsSnap.from_def(node.calendar)),
        "deps": [[list(key.path), mapping and _packed(mapping)] for key, mapping in node.deps.items()],
        "checks": [check.name for check in node.checks],
        "code_version": node.code_version,
        "completeness": asdict(node.completeness),
        "is_product": node.is_product,
        "equal_versions": list(node.equal_versions),
    }


def _from_json(value: Mapping[str, Any]) -> Node:
    key = dg.AssetKey(value["key"])
    declared = value["completeness"]
    return Node(
        key,
        value["location"],
        value["calendar"] and _calendar(value["calendar"]),
        {
            dg.AssetKey(path): mapping and cast(dg.PartitionMapping, dg.deserialize_value(mapping))
            for path, mapping in value["deps"]
        },
        [dg.AssetCheckKey(key, name) for name in value["checks"]],
        value["code_version"],
        Completeness(**{**declared, "optional": tuple(declared["optional"])}),
        value["is_product"],
        tuple(value["equal_versions"]),
    )


def _packed(value: Any) -> str:
    return dg.serialize_value(value)


@lru_cache(maxsize=256)
def _calendar(text: str) -> dg.PartitionsDefinition:
    return cast(PartitionsSnap, dg.deserialize_value(text)).get_partitions_definition()
