"""Column-level lineage of dbt models, from their compiled SQL.

Belongs here: SQL in, lineage out. Not here: Dagster's metadata classes.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

from resources.warehouse import TableName


@dataclass(frozen=True)
class ColumnLineage:
    """The columns of one table and, for each, the upstream table columns that it is computed from."""

    columns: Mapping[str, tuple[tuple[TableName, str], ...]]


def model_lineage(
    manifest: Mapping[str, Any], sources: Mapping[TableName, Mapping[str, str]]
) -> dict[TableName, ColumnLineage]:
    """Lineage of every model of `manifest`, which must carry compiled SQL.

    Args:
        manifest: dbt's manifest.json.
        sources: columns and types of the tables that models read and dbt does not build.

    Returns:
        For each model's table its output columns, in the order of the select list, with their direct upstream
        columns. Computed by qualifying each model against its upstreams' columns with sqlglot.
    """
    models = {unique_id: node for unique_id, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    order = TopologicalSorter(
        {unique_id: set(node["depends_on"]["nodes"]) & models.keys() for unique_id, node in models.items()}
    ).static_order()
    known = {table: dict(columns) for table, columns in sources.items()}
    found: dict[TableName, ColumnLineage] = {}
    for unique_id in order:
        node = models[unique_id]
        table = TableName(node["schema"], node["alias"])
        found[table] = _lineage_of(node["compiled_code"], known)
        known[table] = dict.fromkeys(found[table].columns, "VARCHAR") | {"partition_key": "VARCHAR"}
    return found


def cached_lineage(
    cache: Path, manifest: Mapping[str, Any], sources: Mapping[TableName, Mapping[str, str]]
) -> dict[TableName, ColumnLineage]:
    """`model_lineage`, kept in the file `cache` until a model's compiled SQL or a source's columns change.

    Qualifying every model takes a second, which each code server and run worker would pay anew.
    """
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    compiled = sorted((node["schema"], node["alias"], node["compiled_code"]) for node in models)
    tables = sorted((str(table), dict(columns)) for table, columns in sources.items())
    signature = hashlib.sha256(json.dumps([compiled, tables]).encode()).hexdigest()
    try:
        kept = json.loads(cache.read_text())
    except (FileNotFoundError, ValueError):
        kept = {}
    if kept.get("signature") == signature:
        return {TableName(*table): _from_json(columns) for table, columns in kept["lineage"]}
    found = model_lineage(manifest, sources)
    lines = [[[table.schema, table.name], _to_json(columns)] for table, columns in found.items()]
    # Several processes may load at once: each leaves a whole file.
    with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False) as file:
        json.dump({"signature": signature, "lineage": lines}, file)
    Path(file.name).replace(cache)
    return found


def _to_json(lineage: ColumnLineage) -> dict[str, list[list[str]]]:
    return {
        column: [[table.schema, table.name, name] for table, name in upstream]
        for column, upstream in lineage.columns.items()
    }


def _from_json(columns: Mapping[str, Sequence[Sequence[str]]]) -> ColumnLineage:
    return ColumnLineage(
        {
            column: tuple((TableName(schema, table), name) for schema, table, name in upstream)
            for column, upstream in columns.items()
        }
    )


def _lineage_of(sql: str, known: Mapping[TableName, Mapping[str, str]]) -> ColumnLineage:
    teams: dict[str, dict[str, dict[str, str]]] = {}
    for table, columns in known.items():
        teams.setdefault(table.schema, {})[table.name] = dict(columns)
    schema: dict[str, object] = {"lake": teams}
    query = qualify(
        sqlglot.parse_one(sql, dialect="duckdb"),
        schema=schema,
        dialect="duckdb",
        validate_qualify_columns=False,
    )
    scope = build_scope(query)
    assert isinstance(query, exp.Query)
    return ColumnLineage(
        {
            column: _leaves(lineage(column, query, schema=schema, dialect="duckdb", scope=scope, copy=False))
            for column in query.named_selects
        }
    )


def _leaves(node: Node) -> tuple[tuple[TableName, str], ...]:
    leaves = {
        (TableName(step.expression.db, step.expression.name), exp.to_column(step.name).name)
        for step in node.walk()
        if isinstance(step.expression, exp.Table)
    }
    return tuple(sorted(leaves))
