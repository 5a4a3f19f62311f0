"""Where a training set gets its features from: the protocol, and the one over tables of the lake.

Belongs here: what the SDK needs to know of features. Not here: declaring them, and how a point-in-time join works
(`resources/feature_store/point_in_time.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import dagster as dg
import duckdb

from resources.feature_store.point_in_time import Feature, View, point_in_time_join
from resources.warehouse import TableName


def known_at_column(view: str) -> str:
    """The column of a joined relation that says when the features of `view` were known."""
    return f"{view}_known_at"


class FeatureSource(Protocol):
    """Features of entity rows, each as it was known at the row's time.

    Its `repr` is part of the code version of what is built from it, so it must say all that decides the values; that of
    a frozen dataclass of plain data does.
    """

    @property
    def columns(self) -> Mapping[str, str]:
        """The features, in order, and their DuckDB types, which are numbers or BOOLEAN."""
        ...

    @property
    def known_at(self) -> Mapping[str, str]:
        """By feature, the column of the joined relation with the time at which its value was known.

        The gate refuses a model that was trained on a value that is newer than its row; a feature that is not in here
        cannot be checked, so all must be.
        """
        ...

    @property
    def request(self) -> Mapping[str, str]:
        """What the entity rows must give besides keys and time for `join`, and its DuckDB types: what is asked with."""
        ...

    @property
    def lineage(self) -> Mapping[str, Sequence[dg.TableColumnDep]]:
        """For the catalog: the columns of the assets in `deps` that a column of `columns` or `known_at` comes from."""
        ...

    @property
    def deps(self) -> Sequence[dg.AssetDep]:
        """The assets that `join` reads, and which of their partitions."""
        ...

    def join(self, lake: duckdb.DuckDBPyConnection, entity_rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """`entity_rows` with the columns of `columns` and those that `known_at` names."""
        ...


@dataclass(frozen=True)
class LakeFeatures:
    """Features of views over tables of the lake, joined point in time.

    Attributes:
        views: what is joined; every feature states its type, a number or BOOLEAN.
        deps: the assets that write the views' tables, and which of their partitions a partition of rows reads.
        timestamp: the entity rows' column of times; by default `event_timestamp`, or the only one.
    """

    views: tuple[View, ...]
    deps: tuple[dg.AssetDep, ...]
    timestamp: str | None = None

    @property
    def columns(self) -> Mapping[str, str]:
        """The features of all views, in order, with the types they are cast to.

        Raises:
            ValueError: a feature states no type.
        """
        for view in self.views:
            for feature in view.features:
                if feature.type is None:
                    raise ValueError(
                        f"view {view.name!r}: feature {feature.name!r} states no type; give one, e.g. DOUBLE"
                    )
        return {feature.name: str(feature.type) for view in self.views for feature in view.features}

    @property
    def known_at(self) -> Mapping[str, str]:
        """Each feature was known at the event time of the row that it comes from."""
        return {feature.name: known_at_column(view.name) for view in self.views for feature in view.features}

    @property
    def request(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    @property
    def lineage(self) -> Mapping[str, Sequence[dg.TableColumnDep]]:
        """Each feature comes from one column of its view's table; of a view over SQL nothing is said."""
        written = {TableName.of_key(dep.asset_key): dep.asset_key for dep in self.deps}
        found: dict[str, Sequence[dg.TableColumnDep]] = {}
        for view in self.views:
            if isinstance(view.table, TableName) and view.table in written:
                read = {feature.name: feature.column for feature in view.features}
                read[known_at_column(view.name)] = view.timestamp
                source = written[view.table]
                found |= {name: [dg.TableColumnDep(source, column)] for name, column in read.items()}
        return found

    def join(self, lake: duckdb.DuckDBPyConnection, entity_rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """`entity_rows` with the features of all views, and the event time of each view's row."""
        dated = [
            View(
                view.name,
                view.table,
                view.keys,
                view.timestamp,
                [*view.features, Feature(view.timestamp, known_at_column(view.name))],
                view.created,
                view.ttl,
            )
            for view in self.views
        ]
        return point_in_time_join(lake, entity_rows, dated, self.timestamp)

    def __repr__(self) -> str:
        """The views alone: which assets write their tables decides nothing about the values."""
        return f"LakeFeatures({self.views!r}, {self.timestamp!r})"
