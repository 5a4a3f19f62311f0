"""A small shop: one raw table, and dbt models over it as a manifest holds them."""

from collections.abc import Mapping
from typing import Any

from resources.warehouse import TableName

RAW = TableName("shop", "raw_sales")
SOURCES: Mapping[TableName, Mapping[str, str]] = {
    RAW: {"id": "BIGINT", "value": "DOUBLE", "qty": "BIGINT", "store": "BIGINT", "partition_key": "VARCHAR"},
}


def table(name: str) -> TableName:
    return TableName("shop", name)


def view(name: str, sql: str, *upstream: str) -> dict[str, Any]:
    return _node(name, sql, upstream, "lake_view", {})


def stored(name: str, sql: str, *upstream: str, **config: Any) -> dict[str, Any]:
    return _node(name, sql, upstream, "lake_table", config)


def manifest(*nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {"nodes": {f"model.{node['alias']}": node for node in nodes}}


def _node(name: str, sql: str, upstream: tuple[str, ...], kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    meta = {"partitions": "daily", "partition_column": "day", **config.get("meta", {})}
    return {
        "resource_type": "model",
        "schema": "shop",
        "alias": name,
        "raw_code": config.get("raw_code", sql),
        "compiled_code": sql,
        "config": {"materialized": config.get("materialized", kind), "meta": meta, "pre-hook": [], "post-hook": []},
        "depends_on": {"nodes": [f"model.{one}" for one in upstream]},
        "original_file_path": f"models/{name}.sql",
    }
