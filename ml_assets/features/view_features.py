"""Declared feature views as the features of a training set: the same values that the online store serves.

Belongs here: `FeatureSource` over selections of views and transforms of requests. Not here: declaring views
(`views.py`), their form in a join (`joins.py`), sources that are no views (`source.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import dagster as dg
import duckdb

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.joins import joined_view, refuse_unfit
from ml_assets.features.source import known_at_column
from ml_assets.features.views import EVENT_TIME, Feature, FeatureView, OnDemandTransform, Selection
from platform_assets.code_version import code_version
from platform_assets.partitions import offset
from resources.feature_store.point_in_time import View, entity_rows, point_in_time_sql, quoted


@dataclass(frozen=True)
class ViewFeatures:
    """Features of declared views, each as it was known at the time of the row, and not older than the view's TTL.

    Attributes:
        selections: which features of which views, in order.
        transforms: features that are computed of a request, whose fields the entity rows give, and of such features.
    """

    selections: tuple[Selection, ...]
    transforms: tuple[OnDemandTransform, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two features of one name, read or computed, and a view that is selected twice.

        Raises:
            DeclarationError: names them.
        """
        for kind, names in (
            ("view", [selection.view.name for selection in self.selections]),
            ("feature", [name for selection in self.selections for name in selection.names]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise DeclarationError(f"{kind} {', '.join(twice)} is selected twice; select each once")
        made = [transform.output.name for transform in self.transforms]
        named = [*(name for selection in self._joined for name in selection.names), *made, *self.request]
        clashing = sorted({name for name in named if named.count(name) > 1})
        if clashing:
            raise DeclarationError(
                f"{', '.join(clashing)} is the name of more than one of the features, the transforms' inputs and what "
                "they compute; rename one"
            )

    @property
    def columns(self) -> Mapping[str, str]:
        """The features, in order, and their DuckDB types."""
        read = [feature for selection in self.selections for feature in _features_of(selection)]
        computed = [transform.output for transform in self.transforms]
        return {feature.name: feature.kind.duckdb for feature in (*read, *computed)}

    @property
    def request(self) -> Mapping[str, str]:
        """The fields of the transforms' requests, which may share some."""
        return {field.name: field.kind.duckdb for one in self.transforms for field in one.request.fields}

    @property
    def known_at(self) -> Mapping[str, str]:
        """Each feature was known at the event time of the row that it, or its transform's inputs, come from."""
        known = {name: selection.view for selection in self.selections for name in selection.names}
        known |= {transform.output.name: transform.reads.view for transform in self.transforms}
        return {name: known_at_column(view.name) for name, view in known.items()}

    @property
    def lineage(self) -> Mapping[str, Sequence[dg.TableColumnDep]]:
        """Each feature comes from the column of its view's mart that the declaration names, or from its inputs'."""
        found: dict[str, list[dg.TableColumnDep]] = {}
        for selection in self._joined:
            view = selection.view
            read = {feature.name: feature.read_from for feature in _features_of(selection)}
            read[known_at_column(view.name)] = view.timestamp_column
            found |= {name: [dg.TableColumnDep(view.source_key, column)] for name, column in read.items()}
        for transform in self.transforms:
            found[transform.output.name] = [dep for name in transform.reads.names for dep in found[name]]
        shown = (*self.columns, *self.known_at.values())
        return {name: deps for name, deps in found.items() if name in shown}

    @property
    def deps(self) -> Sequence[dg.AssetDep]:
        """The marts of the views: the partitions that were known by some instant of a partition, up to the TTL."""
        return [
            dg.AssetDep(view.source_key, partition_mapping=offset(newest - view.lookback(), newest))
            for view, newest in (
                (selection.view, 0 if selection.view.is_known_at_start else -1) for selection in self._joined
            )
        ]

    def join(self, lake: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """`rows` with the features, and the event time of each view's row.

        Only those partitions of the marts are read that can hold a value for one of the rows.

        Raises:
            DeclarationError: a mart lacks a declared column, or has it in another type.
        """
        if self.request:
            # In the declared types, as the online store's callers send them.
            cast = ", ".join(f"{quoted(name)}::{kind} as {quoted(name)}" for name, kind in self.request.items())
            rows = rows.project(f"* replace ({cast})")
        asked = entity_rows(lake, rows)
        views = []
        for selection in self._joined:
            refuse_unfit(lake, selection.view)
            partitions: list[str] = []
            if asked.first is not None and asked.last is not None:
                partitions = selection.view.reached(asked.first, asked.last)
            views.append(_selected(joined_view(selection.view, partitions), selection))
        joined = lake.sql(point_in_time_sql(lake, asked, views))
        if not self.transforms:
            return joined
        table = joined.to_arrow_table()
        for transform in self.transforms:
            table = table.append_column(transform.output.name, transform.of_table(table))
        return lake.from_arrow(table)

    def __repr__(self) -> str:
        """What decides about values, and nothing else: it is part of the code version of what is built from them."""
        read = [(one.view.name, one.names, dict(one.view.definition)) for one in self.selections]
        computed = [
            (one.inputs, one.output.name, one.output.type, dict(one.reads.view.definition), code_version(one.function))
            for one in self.transforms
        ]
        return f"ViewFeatures({[*read, *computed]})"

    @property
    def _joined(self) -> list[Selection]:
        """What is read of each view: the selected features, and then those that only transforms read."""
        names: dict[FeatureView, dict[str, None]] = {}
        for one in (*self.selections, *(transform.reads for transform in self.transforms)):
            names.setdefault(one.view, {}).update(dict.fromkeys(one.names))
        return [Selection(view, tuple(read)) for view, read in names.items()]


def _features_of(selection: Selection) -> list[Feature]:
    declared = {feature.name: feature for feature in selection.view.features}
    return [declared[name] for name in selection.names]


def _selected(whole: View, selection: Selection) -> View:
    """The view with the selected features, in their order, and when they were known."""
    joined = {feature.name: feature for feature in whole.features}
    known = replace(joined[EVENT_TIME], name=known_at_column(selection.view.name))
    return replace(whole, features=[*(joined[name] for name in selection.names), known])
