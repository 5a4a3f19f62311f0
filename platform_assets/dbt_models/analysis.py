"""What the models' SQL says about them: lineage and code versions, worked out once and kept in a file.

Belongs here: the analysis of a manifest and its cache. Not here: how lineage (`lineage.py`) and code versions
(`queries.py`) are worked out.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from platform_assets.dbt_models import canonical, lineage, queries
from platform_assets.dbt_models.lineage import ColumnLineage, model_lineage
from platform_assets.dbt_models.queries import in_order, model_codes, settings_of
from resources.warehouse import TableName


@dataclass(frozen=True)
class Analysis:
    """Of every model: its column lineage and its code version."""

    lineage: Mapping[TableName, ColumnLineage]
    code_versions: Mapping[TableName, str]


def analyse(manifest: Mapping[str, Any], sources: Mapping[TableName, Mapping[str, str]]) -> Analysis:
    """The analysis of every model of `manifest`, which must carry compiled SQL.

    Args:
        manifest: dbt's manifest.json.
        sources: columns and types of the tables that models read and dbt does not build.

    Raises:
        UnreadableQuery: a model's SQL cannot be parsed or its columns cannot be resolved.
    """
    codes = model_codes(manifest, sources)
    return Analysis(model_lineage(codes), {table: code.version for table, code in codes.items()})


def cached_analysis(
    cache: Path, manifest: Mapping[str, Any], sources: Mapping[TableName, Mapping[str, str]]
) -> Analysis:
    """`analyse`, kept in the file `cache` until a model, a source's columns, sqlglot or our analysis change.

    Analysing every model takes a second, which each code server and run worker would pay anew.

    Raises:
        UnreadableQuery: see `analyse`.
    """
    signature = _signature(manifest, sources)
    try:
        kept = json.loads(cache.read_text())
    except (FileNotFoundError, ValueError):
        kept = {}
    if kept.get("signature") == signature:
        return _from_json(kept)
    found = analyse(manifest, sources)
    # Several processes may load at once: each leaves a whole file.
    with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False) as file:
        json.dump({"signature": signature, **_to_json(found)}, file)
    Path(file.name).replace(cache)
    return found


def _signature(manifest: Mapping[str, Any], sources: Mapping[TableName, Mapping[str, str]]) -> str:
    """Changes with everything that the analysis reads, and with the code that does it."""
    models = [
        [node["schema"], node["alias"], node["compiled_code"], node.get("raw_code"), settings_of(node)]
        for node in in_order(manifest)
    ]
    tables = [[str(table), dict(columns)] for table, columns in sources.items()]
    digest = hashlib.sha256(json.dumps([version("sqlglot"), sorted(models, key=str), tables]).encode())
    for module in (canonical, queries, lineage):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def _to_json(analysis: Analysis) -> dict[str, Any]:
    lineage = [
        [
            [table.schema, table.name],
            {
                column: [[upstream.schema, upstream.name, name] for upstream, name in leaves]
                for column, leaves in found.columns.items()
            },
        ]
        for table, found in analysis.lineage.items()
    ]
    versions = [[table.schema, table.name, version] for table, version in analysis.code_versions.items()]
    return {"lineage": lineage, "code_versions": versions}


def _from_json(kept: Mapping[str, Any]) -> Analysis:
    lineage = {
        TableName(*table): ColumnLineage(
            {
                column: tuple((TableName(schema, entity), name) for schema, entity, name in leaves)
                for column, leaves in columns.items()
            }
        )
        for table, columns in kept["lineage"]
    }
    return Analysis(lineage, {TableName(schema, name): version for schema, name, version in kept["code_versions"]})
