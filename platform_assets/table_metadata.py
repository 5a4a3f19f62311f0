"""What the asset catalog shows of a table: its columns, and the columns that each is computed from.

Belongs here: the two metadata entries that Dagster's catalog reads. Not here: where columns and lineage come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg


def table_metadata(
    columns: Iterable[dg.TableColumn], lineage: Mapping[str, Sequence[dg.TableColumnDep]]
) -> dict[str, Any]:
    """Column schema and column-level lineage of a table, as metadata of its asset or of a materialization.

    The open-source web UI draws no graph of columns, so each description also names the direct upstream columns,
    with links to their assets.

    Args:
        columns: the columns of the table.
        lineage: direct upstream columns by column; one without any may be left out.
    """
    return {
        "dagster/column_schema": dg.TableSchema([_with_sources(column, lineage) for column in columns]),
        "dagster/column_lineage": dg.TableColumnLineage({name: deps for name, deps in lineage.items() if deps}),
    }


def _with_sources(column: dg.TableColumn, lineage: Mapping[str, Sequence[dg.TableColumnDep]]) -> dg.TableColumn:
    links = [_link(dep) for dep in lineage.get(column.name, ())]
    parts = [part for part in (column.description, links and "From " + ", ".join(links) + ".") if part]
    return dg.TableColumn(column.name, column.type, " ".join(parts), column.constraints, column.tags)


def _link(dep: dg.TableColumnDep) -> str:
    return f"[{dep.asset_key.path[-1]}.{dep.column_name}](/assets/{'/'.join(dep.asset_key.path)})"
