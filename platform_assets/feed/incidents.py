"""What goes wrong with deliveries in life, by name: `headwater feed --incident NAME`.

Belongs here: one small transformation of a delivery each, and the map of them. Not here: finding any of it
(the checks of the source do), and failures of our own machine.

An incident happens to every partition of the feed that names it. Each is deterministic: fed twice, the second
feed changes nothing; fed again without the incident, everything is right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import duckdb

from platform_assets.sources.declaration import Column, Source
from resources.engine import quoted

CORRECTED_PERCENT = 3
DUPLICATED_PERCENT = 20
MISPLACED_PERCENT = 2

CORRECTIONS: Mapping[str, Mapping[str, str]] = {
    "commerce.transactions": {
        "quantity": "quantity + 1",
        "sales_value": "round(sales_value * 1.1 + 0.01, 2)",
    },
    "webtoon.reads": {"seconds_read": "seconds_read + 30", "completion": "round(1 - completion / 2, 3)"},
}
"""New values per source and column; what is not here is corrected by its type."""

CORRECTIONS_BY_TYPE: Mapping[str, str] = {
    "BIGINT": "{column} + 1",
    "BOOLEAN": "NOT {column}",
    "DATE": "{column} + 1",
    "DOUBLE": "{column} * 1.1",
    "TIMESTAMP": "{column} + INTERVAL 1 SECOND",
    "VARCHAR": "'corrected ' || coalesce({column}, '')",
}


class IncidentError(ValueError):
    """An incident that cannot happen; the message names it, the source or column, and what is possible."""


@dataclass(frozen=True)
class Draft:
    """A delivery before it is written. `rows_of` gets the right rows of any partition of the source, anew."""

    source: Source
    partition: str
    rows_of: Callable[[str], duckdb.DuckDBPyRelation]
    rows: duckdb.DuckDBPyRelation
    asked_column: str | None = None
    is_marked: bool = True
    is_cut: bool = False

    @property
    def column(self) -> Column:
        """The column asked for; else the first that is neither key nor event time nor text; else the last."""
        event_time = self.source.event_time.column if self.source.event_time else None
        spared = {*self.source.key, event_time}
        asked = [column for column in self.source.columns if column.name == self.asked_column]
        plain = [c for c in self.source.columns if c.name not in spared and c.type != "VARCHAR"]
        return (asked or plain or [self.source.columns[-1]])[0]

    def share(self, percent: int) -> str:
        """SQL that holds for about `percent` of the rows, the same ones every time."""
        names = self.source.key or tuple(column.name for column in self.source.columns)
        return f"hash({', '.join(map(quoted, names))}) % 100 < {percent}"


Incident = Callable[[Draft], Draft | None]


def missing(draft: Draft) -> None:
    """The partition is not delivered; what was delivered before stays."""


def late(draft: Draft) -> Draft:
    """The files come without their marker, until a later feed without the incident completes them."""
    return replace(draft, is_marked=False)


def truncated(draft: Draft) -> Draft:
    """The file ends after half of its bytes, and is marked complete all the same."""
    return replace(draft, is_cut=True)


def duplicated(draft: Draft) -> Draft:
    """A fifth of the rows comes twice, as from a job that was retried."""
    again = draft.rows_of(draft.partition).filter(draft.share(DUPLICATED_PERCENT))
    return replace(draft, rows=draft.rows.union(again))


def reordered(draft: Draft) -> Draft:
    """The same rows come in another order, as from an export that was repeated."""
    return replace(draft, rows=draft.rows.order(draft.share(50)))


def corrected(draft: Draft) -> Draft:
    """3 % of the rows carry other values, in the columns that are usually corrected or in `--column`."""
    usual = CORRECTIONS.get(draft.source.name, {})
    column = draft.column
    by_type = CORRECTIONS_BY_TYPE[column.type].format(column=quoted(column.name))
    asked = {column.name: usual.get(column.name, by_type)}
    values = usual if usual and draft.asked_column is None else asked
    is_corrected = draft.share(CORRECTED_PERCENT)
    replaced = (
        f"CASE WHEN {is_corrected} THEN {value} ELSE {quoted(name)} END AS {quoted(name)}"
        for name, value in values.items()
    )
    return replace(draft, rows=draft.rows.project(f"* REPLACE ({', '.join(replaced)})"))


def renamed_column(draft: Draft) -> Draft:
    """A column comes under another name: `<column>_new`."""
    name = draft.column.name
    return replace(draft, rows=draft.rows.project(f"* RENAME ({quoted(name)} AS {quoted(f'{name}_new')})"))


def retyped_column(draft: Draft) -> Draft:
    """A column comes with another type: text instead of anything else, a number instead of text."""
    name = quoted(draft.column.name)
    other = f"length({name})" if draft.column.type == "VARCHAR" else f"'about ' || {name}"
    return replace(draft, rows=draft.rows.project(f"* REPLACE ({other} AS {name})"))


def extra_column(draft: Draft) -> Draft:
    """A column comes that nobody declared: `upstream_note`."""
    return replace(draft, rows=draft.rows.project("*, 'see ticket' AS upstream_note"))


def missing_column(draft: Draft) -> Draft:
    """A column does not come."""
    return replace(draft, rows=draft.rows.project(f"* EXCLUDE ({quoted(draft.column.name)})"))


def empty(draft: Draft) -> Draft:
    """A file comes that holds no row."""
    return replace(draft, rows=draft.rows.limit(0))


def misplaced_rows(draft: Draft) -> Draft:
    """2 % of the rows of the neighbouring partition come along."""
    keys = draft.source.partition_keys()
    at = keys.index(draft.partition)
    neighbour = keys[at - 1] if at else keys[at + 1]
    strays = draft.rows_of(neighbour).filter(draft.share(MISPLACED_PERCENT))
    return replace(draft, rows=draft.rows.union(strays))


INCIDENTS: Mapping[str, Incident] = {
    "missing": missing,
    "late": late,
    "truncated": truncated,
    "duplicated": duplicated,
    "reordered": reordered,
    "corrected": corrected,
    "renamed-column": renamed_column,
    "retyped-column": retyped_column,
    "extra-column": extra_column,
    "missing-column": missing_column,
    "empty": empty,
    "misplaced-rows": misplaced_rows,
}
WITH_COLUMN = frozenset({"corrected", "renamed-column", "retyped-column", "missing-column"})
WITH_NEIGHBOUR = frozenset({"misplaced-rows"})


def refuse_impossible(source: Source, incident: str | None, column: str | None) -> None:
    """Check that `incident` can happen to `source`, and to `column` if one is named.

    Raises:
        IncidentError: it is unknown, takes no column, needs partitions, or the source lacks the column.
    """
    if incident is not None and incident not in INCIDENTS:
        raise IncidentError(f"unknown incident {incident!r}; choose one of {', '.join(INCIDENTS)}")
    if incident in WITH_NEIGHBOUR and source.partitions is None:
        raise IncidentError(f"{incident} needs a neighbouring partition, and {source.name} has none; leave it out")
    if column is None:
        return
    if incident not in WITH_COLUMN:
        raise IncidentError(f"a column goes only with one of the incidents {', '.join(sorted(WITH_COLUMN))}")
    names = [known.name for known in source.columns]
    if column not in names:
        raise IncidentError(f"{source.name} has no column {column!r}; its columns: {', '.join(names)}")
