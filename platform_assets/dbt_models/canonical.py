"""The canonical form of a query: equal for queries that say the same in another way.

Belongs here: a qualified syntax tree in, its digest out. Not here: reading a project's queries (`queries.py`), what
else a model's code version says (`queries.py`).

What does not count: layout, comments, quoting, case, redundant parentheses, the names of CTEs and table aliases, the
order of output columns, whether a subquery is a CTE, and queries that only pass their source on. Columns that nothing
reads are pruned first. Equivalences of algebra (`a and b`, `b and a`) do count. The form names sqlglot's node types, so
that another release of sqlglot may give other digests.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Any, TypeAlias

from sqlglot import exp
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.schema import Schema

Form: TypeAlias = Any
"""Nested lists and plain values, the same on every machine."""


def digest(form: Form) -> str:
    """A short digest of plain values."""
    return blake2b(json.dumps(form, sort_keys=True, separators=(",", ":")).encode(), digest_size=16).hexdigest()


def query_digest(query: exp.Query, schema: Schema, columns: Sequence[str] | None = None) -> str:
    """The digest of a query's canonical form.

    Args:
        query: qualified and with its stars expanded; not altered.
        schema: the columns of the tables that it reads. They count only where `reads_by_name` is false.
        columns: the output columns of interest (None: all); without any, only the rows matter.
    """
    by_name = reads_by_name(query)
    asked = query.copy() if columns is None else _restricted(query, columns)
    if by_name:
        asked = pushdown_projections(asked)
    return _Canonical(None if by_name else schema).query(asked, ())


def reads_by_name(query: exp.Query) -> bool:
    """Whether every column that the query reads is known by its name.

    False for `columns(…)`, pivots, whole rows (`to_json(t)`) and whatever else could not be resolved: such a query is
    taken to depend on every column of what it reads.
    """
    return not any(map(_is_unresolved, query.walk()))


def _is_unresolved(node: exp.Expr) -> bool:
    match node:
        case exp.Columns() | exp.Pivot() | exp.TableColumn():
            return True
        case exp.Star():
            return not isinstance(node.parent, exp.Count)
        case exp.Join():
            return node.method == "NATURAL"
        case exp.Column():
            return not node.table and not _is_output_name(node)
    return False


def _is_output_name(column: exp.Column) -> bool:
    """`order by total`, where the query itself has an output of that name."""
    query = column.find_ancestor(exp.Query)
    ordered = column.find_ancestor(exp.Order, exp.Distinct)
    return isinstance(query, exp.Query) and ordered is not None and column.name in query.named_selects


def _restricted(query: exp.Query, columns: Sequence[str]) -> exp.Query:
    outputs = [exp.alias_(exp.column(name, table="q"), name) for name in columns]
    return exp.select(*outputs or [exp.alias_("1", _NOTHING)]).from_(query.subquery("q"))


@dataclass(frozen=True)
class _Scope:
    """The names that a query's clauses may use: its sources by alias, numbered in order, and its CTEs."""

    sources: dict[str, int] = field(default_factory=dict)
    ctes: "dict[str, _Cte | None]" = field(default_factory=dict)


_Scopes: TypeAlias = tuple[_Scope, ...]
"""Innermost last."""


@dataclass(frozen=True)
class _Cte:
    query: exp.Expr
    scopes: _Scopes
    columns: tuple[str, ...]


class _Canonical:
    """Forms of the parts of one tree. With a `schema`, a table's form holds the names of its columns too."""

    def __init__(self, schema: Schema | None) -> None:
        self._schema = schema
        self._known: dict[tuple[int, bool], str] = {}

    def query(self, query: exp.Expr, scopes: _Scopes, positional: bool = False) -> str:
        """The digest of a query; the order of its output columns counts where it is `positional`."""
        query = _without_parentheses(query)
        if not isinstance(query, _SELECTS):
            return digest(self._form(query, scopes))
        if isinstance(query, exp.Select) and not positional:
            query, scopes = self._passed_through(query, scopes, whole=True)
        known = id(query), positional
        if known not in self._known:
            self._known[known] = digest(self._query(query, scopes, positional))
        return self._known[known]

    def _query(self, query: exp.Expr, scopes: _Scopes, positional: bool) -> Form:
        scope = self._scope(query, scopes)
        inside = (*scopes, scope)
        clauses = {name: value for name, value in query.args.items() if value and name != "with_"}
        if isinstance(query, exp.SetOperation):
            operands = [self._operand(clauses.pop(side), inside) for side in _OPERANDS]
            return [type(query).__name__, operands, self._args(clauses, inside)]
        outputs = [[output.alias_or_name, self._form(output.unalias(), inside)] for output in clauses.pop(_OUTPUTS, [])]
        if not positional and self._schema is None and not _has_ordinals(query):
            outputs.sort(key=lambda output: output[0])
        return ["Select", outputs, self._args(clauses, inside)]

    def _operand(self, operand: exp.Expr, scopes: _Scopes) -> Form:
        bare = _without_parentheses(operand)
        return self.query(bare, scopes, positional=True) if isinstance(bare, _SELECTS) else self._form(bare, scopes)

    def _scope(self, query: exp.Expr, scopes: _Scopes) -> _Scope:
        scope = _Scope({source.alias_or_name: number for number, source in enumerate(_sources(query))})
        with_ = query.args.get("with_")
        if with_ is None:
            return scope
        for cte in with_.expressions:
            itself: dict[str, _Cte | None] = {cte.alias: None} if with_.args.get("recursive") else {}
            columns = tuple(column.name for column in cte.args["alias"].columns)
            scope.ctes[cte.alias] = _Cte(cte.this, (*scopes, _Scope(ctes=scope.ctes | itself)), columns)
        return scope

    def _form(self, value: object, scopes: _Scopes) -> Form:
        match value:
            case exp.Paren():
                return self._form(value.this, scopes)
            case exp.Column():
                return ["Column", *_place(value.table, scopes), self._form(value.this, scopes)]
            case exp.Table():
                return self._table(value, scopes)
            case exp.Subquery() if isinstance(value.this, _SELECTS) and isinstance(value.parent, exp.From | exp.Join):
                return self._source(value.this, scopes, (), self._rest(value, scopes))
            case exp.Select() | exp.SetOperation():
                # A value, or values to compare with: what it selects counts, and in which order.
                return ["Query", self.query(value, scopes, positional=True)]
            case exp.Identifier():
                return value.name
            case exp.Var() | exp.Anonymous():
                return [type(value).__name__, value.name.lower(), self._form(value.expressions, scopes)]
            case exp.TableAlias():
                return [column.name for column in value.columns]
            case exp.Expr():
                return [type(value).__name__, self._args(value.args, scopes)]
            case list():
                return [self._form(item, scopes) for item in value]
            case Enum():
                return value.name
        return value

    def _args(self, args: Mapping[str, object], scopes: _Scopes) -> Form:
        formed = {name: self._form(value, scopes) for name, value in args.items() if value}
        return {name: form for name, form in formed.items() if form not in ([], None)}

    def _table(self, table: exp.Table, scopes: _Scopes) -> Form:
        rest = self._rest(table, scopes)
        found = _cte(table, scopes)
        if found is not None:
            return self._source(found.query, found.scopes, found.columns, rest)
        if not table.db and any(table.name in scope.ctes for scope in scopes):
            return ["Recursion", rest]
        columns = [] if self._schema is None else sorted(self._schema.column_names(table))
        return ["Table", table.catalog, table.db, self._form(table.this, scopes), columns, rest]

    def _source(self, query: exp.Expr, scopes: _Scopes, columns: Sequence[str], rest: Form) -> Form:
        """What a subquery or the name of a CTE stands for in `from`; its columns are renamed to `columns`, if any.

        What it selects counts only as far as it computes it: the columns that are read of it are named where they are.
        """
        if isinstance(query, exp.Select) and not columns:
            query, scopes = self._passed_through(query, scopes, whole=False)
        if isinstance(query, exp.Table):
            return [*self._table(query, scopes)[:-1], rest]
        return ["Query", self.query(query, scopes, positional=bool(columns)), list(columns), rest]

    def _rest(self, source: exp.Expr, scopes: _Scopes) -> Form:
        """What is said of a source besides its query and its name: a sample, column aliases, joins."""
        return self._args({name: value for name, value in source.args.items() if name not in _IDENTITY}, scopes)

    def _passed_through(self, query: exp.Select, scopes: _Scopes, whole: bool) -> tuple[exp.Expr, _Scopes]:
        """The query whose columns `query` selects under their own names, doing nothing else; else `query` itself.

        With `whole` it must select all of them; without, some are enough, and a stored table may be passed on too.
        """
        found: exp.Expr = query
        while self._schema is None and isinstance(found, exp.Select):
            inner = (*scopes, self._scope(found, scopes))
            source = _only_source(found, whole)
            below: tuple[exp.Expr, _Scopes]
            match source:
                case exp.Subquery() if isinstance(source.this, _SELECTS):
                    below = source.this, inner
                case exp.Table() if (cte := _cte(source, inner)) and not cte.columns:
                    below = cte.query, cte.scopes
                case exp.Table() if source.db and not whole:
                    return source, inner
                case _:
                    break
            outputs = below[0].named_selects if isinstance(below[0], _SELECTS) else []
            if whole and set(outputs) != set(found.named_selects):
                break
            found, scopes = below
        return found, scopes


_SELECTS = (exp.Select, exp.SetOperation)
_OPERANDS = ("this", "expression")
_OUTPUTS = "expressions"
_IDENTITY = frozenset({"this", "db", "catalog"})
_NOTHING = "_"
"""What sqlglot calls the constant that is selected from a query of which only the rows matter."""
_MERE_SELECT = frozenset({"with_", "expressions", "from_"})


def _without_parentheses(query: exp.Expr) -> exp.Expr:
    """The query inside parentheses that say nothing else."""
    while isinstance(query, exp.Subquery) and not any(value for name, value in query.args.items() if name != "this"):
        query = query.this
    return query


def _place(table: str, scopes: _Scopes) -> list[object]:
    """How many queries further out the source called `table` is, and its number there."""
    for level, scope in enumerate(reversed(scopes)):
        if table in scope.sources:
            return [level, scope.sources[table]]
    return [table]


def _cte(table: exp.Table, scopes: _Scopes) -> _Cte | None:
    if not table.db:
        for scope in reversed(scopes):
            if table.name in scope.ctes:
                return scope.ctes[table.name]
    return None


def _sources(query: exp.Expr) -> Iterator[exp.Expr]:
    """What a query's clauses may name, in the order in which it is written."""
    for clause in (query.args.get("from_"), *(query.args.get("joins") or ()), *(query.args.get("laterals") or ())):
        if clause is not None:
            yield from _named(clause)


def _named(node: exp.Expr) -> Iterator[exp.Expr]:
    wraps = isinstance(node, exp.From | exp.Join | exp.Paren) or (
        isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Query)
    )
    if wraps:
        yield from _named(node.this)
    else:
        yield node
    for join in node.args.get("joins") or ():
        yield from _named(join)


def _only_source(query: exp.Select, whole: bool) -> exp.Expr | None:
    """The source of a query that does nothing but select columns under their own names, or no column at all."""
    if any(value for name, value in query.args.items() if name not in _MERE_SELECT) or not query.args.get("from_"):
        return None
    source: exp.Expr = query.args["from_"].this
    if any(value for name, value in source.args.items() if name not in _IDENTITY | {"alias"}):
        return None
    if source.alias_column_names:
        return None
    outputs = [(output.alias_or_name, output.unalias()) for output in query.selects]
    if not whole and [name for name, _ in outputs] == [_NOTHING] and isinstance(outputs[0][1], exp.Literal):
        return source
    for name, column in outputs:
        if not isinstance(column, exp.Column) or (column.table, column.name) != (source.alias_or_name, name):
            return None
    return source


def _has_ordinals(query: exp.Expr) -> bool:
    """Whether `group by 1` or `order by 1` still stands for an output by its place."""
    clauses = [query.args.get(name) for name in ("group", "order", "distinct")]
    return any(literal.is_int for clause in clauses if clause for literal in clause.find_all(exp.Literal))
