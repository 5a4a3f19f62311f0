"""The models' queries, read once: parsed, and every column traced to the table it comes from.

Belongs here: the project's manifest in, one `ModelCode` a model out. Not here: the canonical form of a query
(`canonical.py`), lineage (`lineage.py`), keeping results (`analysis.py`).

Views store nothing, so a model that reads one depends on the view's query: in `ModelCode.whole` it stands in the view's
place.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope
from sqlglot.schema import MappingSchema

from platform_assets.dbt_models.canonical import digest, query_digest, reads_by_name
from resources.warehouse import PARTITION_KEY, TableName

DIALECT = "duckdb"
LAKE = "lake"
VIEW = "lake_view"

_JINJA_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_WINDOW = re.compile(r"\b(window_of|is_in_window)\s*\(\s*((?:ref|source)\s*\([^)]*\))?")


class UnreadableQuery(ValueError):
    """A model's SQL that cannot be analysed; the message names the model and says why."""


@dataclass(frozen=True)
class Query:
    """A query whose columns are qualified and whose stars are expanded, over tables whose columns are in `schema`."""

    tree: exp.Query
    schema: MappingSchema

    @property
    def columns(self) -> list[str]:
        """The output columns, in the order of the select list."""
        return list(self.tree.named_selects)

    @cached_property
    def by_name(self) -> bool:
        """Whether every column that it reads is known by its name."""
        return reads_by_name(self.tree)

    @cached_property
    def digest(self) -> str:
        """Digest of the canonical form."""
        return query_digest(self.tree, self.schema)

    def digest_of(self, columns: Iterable[str]) -> str:
        """Digest of the canonical form of these output columns alone; of none: of what decides about the rows."""
        return query_digest(self.tree, self.schema, list(columns))

    @cached_property
    def columns_read(self) -> Mapping[TableName, frozenset[str]]:
        """The tables and views that it names, with the columns of each that it uses; all, where it is not `by_name`."""
        tree = pushdown_projections(self.tree.copy()) if self.by_name else self.tree
        tables = [table for table in tree.find_all(exp.Table) if table.db]
        if not self.by_name:
            return {_table_of(table): frozenset(self.schema.column_names(table)) for table in tables}
        used: dict[TableName, set[str]] = {_table_of(table): set() for table in tables}
        for scope in traverse_scope(tree):
            for column in scope.columns:
                source = scope.sources.get(column.table)
                if isinstance(source, exp.Table) and source.db:
                    used[_table_of(source)].add(column.name)
        return {table: frozenset(names) for table, names in used.items()}


@dataclass(frozen=True)
class ModelCode:
    """What decides about the rows that a model stores.

    Attributes:
        table: where it is stored.
        settings: what of its config changes the stored rows, as plain values.
        windows: what it reads of the run's window only, and where it keeps only the window's rows.
        own: its query over the tables and views that it names.
        whole: its query with the queries of the views that it reads in their place.
    """

    table: TableName
    settings: Mapping[str, object]
    windows: tuple[str, ...]
    own: Query
    whole: Query

    @property
    def is_view(self) -> bool:
        """Whether it stores nothing."""
        return self.settings["materialized"] == VIEW

    @cached_property
    def version(self) -> str:
        """The code version: changes when the model would store other rows or columns."""
        return digest([self.whole.digest, self.settings, self.windows])


def model_codes(
    manifest: Mapping[str, Any], sources: Mapping[TableName, Mapping[str, str]]
) -> dict[TableName, ModelCode]:
    """The code of every model of `manifest`, which must carry compiled SQL; upstream models come first.

    Args:
        manifest: dbt's manifest.json.
        sources: columns and types of the tables that models read and dbt does not build.

    Raises:
        UnreadableQuery: a model's SQL cannot be parsed or its columns cannot be resolved.
    """
    reader = _Reader(sources)
    for node in in_order(manifest):
        reader.add(node)
    return reader.codes


def in_order(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The manifest's models, each after those that it reads."""
    models = {unique_id: node for unique_id, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    upstream = {unique_id: set(node["depends_on"]["nodes"]) & models.keys() for unique_id, node in models.items()}
    return [models[unique_id] for unique_id in TopologicalSorter(upstream).static_order()]


def settings_of(node: Mapping[str, Any]) -> dict[str, object]:
    """What of a model's config changes the stored rows; see `dbt/macros/`."""
    config = node["config"]
    meta = config.get("meta") or {}
    return {
        "materialized": config["materialized"],
        **{name: meta.get(name) for name in ("partitions", "partition_column", "lookback")},
        **{name: [hook["sql"] for hook in config.get(name) or ()] for name in ("pre-hook", "post-hook")},
    }


def windows_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The calls by which a model limits itself to the run's window, from its source.

    Its compiled SQL does not show them: it is compiled without a window, so that all rows are read.
    """
    calls = _WINDOW.findall(_JINJA_COMMENT.sub("", node.get("raw_code", "")))
    return tuple(sorted(f"{macro}({''.join(relation.split())})".replace('"', "'") for macro, relation in calls))


class _Reader:
    """Reads models in order; each needs the columns of those before it."""

    def __init__(self, sources: Mapping[TableName, Mapping[str, str]]) -> None:
        self.codes: dict[TableName, ModelCode] = {}
        self._schema = MappingSchema(dialect=DIALECT)
        self._views: dict[TableName, exp.Query] = {}
        for table, columns in sources.items():
            self._know(table, columns)

    def add(self, node: Mapping[str, Any]) -> None:
        table, settings = TableName(node["schema"], node["alias"]), settings_of(node)
        try:
            parsed = _parsed(node["compiled_code"])
            own = self._qualified(parsed)
            inlined = self._inlined(parsed)
            whole = own if inlined is parsed else self._qualified(inlined)
        except SqlglotError as error:
            said = " ".join(str(error).split())
            raise UnreadableQuery(
                f"the SQL of dbt model {table} cannot be analysed for its lineage and code version ({said}); "
                f"rewrite that part of {node.get('original_file_path', node['alias'])}"
            ) from error
        self.codes[table] = ModelCode(table, settings, windows_of(node), own, whole)
        columns = own.columns
        if settings["materialized"] == VIEW:
            self._views[_lowered(table)] = inlined
        elif settings["partitions"] not in (None, "none"):
            columns.append(PARTITION_KEY)
        self._know(table, dict.fromkeys(columns, "VARCHAR"))

    def _know(self, table: TableName, columns: Mapping[str, str]) -> None:
        self._schema.add_table(exp.table_(table.name, table.schema, LAKE), dict(columns), dialect=DIALECT)

    def _qualified(self, query: exp.Query) -> Query:
        query = query.copy()
        for test in query.find_all(exp.Exists):
            if isinstance(test.this, exp.Select) and test.this.is_star:
                test.this.set("expressions", [exp.alias_("1", "_")])  # what it selects is never read
        tree = qualify(
            query,
            schema=self._schema,
            dialect=DIALECT,
            validate_qualify_columns=False,
            allow_partial_qualification=True,
        )
        return Query(tree, self._schema)

    def _inlined(self, query: exp.Query) -> exp.Query:
        """`query` with views' queries in their place; the same object when it reads none."""
        if not any(_table_of(table) in self._views for table in query.find_all(exp.Table)):
            return query
        query = query.copy()
        for table in list(query.find_all(exp.Table)):
            view = self._views.get(_table_of(table))
            if view is not None:
                kept = {name: value for name, value in table.args.items() if name not in ("this", "db", "catalog")}
                alias = kept.pop("alias", None) or exp.TableAlias(this=exp.to_identifier(table.name))
                table.replace(exp.Subquery(this=view.copy(), alias=alias, **kept))
        return query


def _table_of(table: exp.Table) -> TableName:
    return _lowered(TableName(table.db, table.name))


def _lowered(table: TableName) -> TableName:
    return TableName(table.schema.lower(), table.name.lower())


def _parsed(sql: str) -> exp.Query:
    query = sqlglot.parse_one(sql, dialect=DIALECT)
    if not isinstance(query, exp.Query):
        raise SqlglotError(f"it is a {type(query).__name__.lower()} statement; write it as a select")
    return query
