"""The graph that the code locations publish, for every process that asks about it.

Belongs here: keeping what was published until the code changes, its form, and refusing to answer by anything else. Not
here: loading code locations (`load_graph.py`, in a process of its own).
"""

import fcntl
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.partitions.snap.snap import PartitionsSnap

from platform_assets.asset_graph.completeness import Completeness
from platform_assets.asset_graph.declared import declared_nodes
from platform_assets.asset_graph.graph import Graph, Node
from platform_assets.asset_graph.locations import WORKSPACE
from resources.environment import REPOSITORY

_CODE = ("resources", "platform_assets", "ml_assets", "dbt")
_SUFFIXES = (".py", ".sql", ".yml", ".yaml")
_STDERR_CHARACTERS = 500


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
            [sys.executable, "-m", "platform_assets.asset_graph.load_graph", str(file)],
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
        return Graph.of([_from_json(node) for nodes in locations.values() for node in nodes])
    except ValueError as error:
        raise GraphError(
            f"the code locations make no graph: {error}. Correct one of the two, then do this again"
        ) from error


def declared_assets(location: str, definitions: dg.Definitions) -> list[dict[str, Any]]:
    """The assets of a location as plain data, as they are kept."""
    return [_to_json(node) for node in declared_nodes(location, definitions)]


def _signature() -> str:
    """Changes with any file that a definition may come from, and with Dagster."""
    digest = hashlib.sha256(dg.__version__.encode())
    paths = [WORKSPACE, *(path for folder in _CODE for path in sorted((REPOSITORY / folder).rglob("*")))]
    for path in paths:
        if path.suffix in _SUFFIXES:
            stat = path.stat()
            digest.update(f"{path.relative_to(REPOSITORY)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


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
