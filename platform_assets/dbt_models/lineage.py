"""Column-level lineage of dbt models, from their qualified queries.

Belongs here: queries in, lineage out. Not here: Dagster's metadata classes, reading the queries (`queries.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.scope import build_scope

from platform_assets.dbt_models.queries import DIALECT, ModelCode, Query
from resources.warehouse import TableName


@dataclass(frozen=True)
class ColumnLineage:
    """The columns of one table and, for each, the upstream table columns that it is computed from."""

    columns: Mapping[str, tuple[tuple[TableName, str], ...]]


def model_lineage(codes: Mapping[TableName, ModelCode]) -> dict[TableName, ColumnLineage]:
    """Lineage of every model: for each output column, in the order of the select list, its direct upstream columns.

    A view is an upstream table like any other.
    """
    return {table: _lineage_of(code.own) for table, code in codes.items()}


def _lineage_of(query: Query) -> ColumnLineage:
    scope = build_scope(query.tree)
    return ColumnLineage(
        {
            column: _leaves(lineage(column, query.tree, query.schema, dialect=DIALECT, scope=scope, copy=False))
            for column in query.columns
        }
    )


def _leaves(node: Node) -> tuple[tuple[TableName, str], ...]:
    leaves = {
        (TableName(step.expression.db, step.expression.name), exp.to_column(step.name).name)
        for step in node.walk()
        if isinstance(step.expression, exp.Table)
    }
    return tuple(sorted(leaves))
