"""Declared feature views as the features of a training set: the same values that the online store serves.

Belongs here: `FeatureSource` over selections of views. Not here: declaring views (`feature_views.py`), their form in a
join (`feature_forms.py`), sources that are no views (`feature_source.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import dagster as dg
import duckdb

from ml_assets.sdk.declaration_error import DeclarationError
from ml_assets.sdk.feature_forms import joined_view, refuse_unfit
from ml_assets.sdk.feature_source import known_at_column
from ml_assets.sdk.feature_views import EVENT_TIME, Feature, Selection
from platform_assets.partitions import offset
from resources.feature_store.point_in_time import View, entity_rows, point_in_time_sql


@dataclass(frozen=True)
class ViewFeatures:
    """Features of declared views, each as it was known at the time of the row, and not older than the view's TTL.

    Attributes:
        selections: which features of which views, in order.
    """

    selections: tuple[Selection, ...]

    def __post_init__(self) -> None:
        """Refuse two features of one name, and a view that is selected twice.

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

    @property
    def columns(self) -> Mapping[str, str]:
        """The features, in order, and their DuckDB types."""
        return {
            feature.name: feature.kind.duckdb for selection in self.selections for feature in _features_of(selection)
        }

    @property
    def known_at(self) -> Mapping[str, str]:
        """Each feature was known at the event time of the row that it comes from."""
        return {name: known_at_column(selection.view.name) for selection in self.selections for name in selection.names}

    @property
    def deps(self) -> Sequence[dg.AssetDep]:
        """The marts of the views: the partitions that were known by some instant of a partition, up to the TTL."""
        return [
            dg.AssetDep(view.source_key, partition_mapping=offset(newest - view.lookback(), newest))
            for view, newest in (
                (selection.view, 0 if selection.view.is_known_at_start else -1) for selection in self.selections
            )
        ]

    def join(self, lake: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """`rows` with the features, and the event time of each view's row.

        Only those partitions of the marts are read that can hold a value for one of the rows.

        Raises:
            DeclarationError: a mart lacks a declared column, or has it in another type.
        """
        asked = entity_rows(lake, rows)
        views = []
        for selection in self.selections:
            refuse_unfit(lake, selection.view)
            partitions: list[str] = []
            if asked.first is not None and asked.last is not None:
                oldest = asked.first - selection.view.ttl - timedelta(hours=1)
                known = {key: selection.view.known_at(key) for key in selection.view.calendar.get_partition_keys()}
                partitions = [key for key, moment in known.items() if oldest <= moment <= asked.last]
            views.append(_selected(joined_view(selection.view, partitions), selection))
        return lake.sql(point_in_time_sql(lake, asked, views))

    def __repr__(self) -> str:
        """What decides about values, and nothing else: it is part of the code version of what is built from them."""
        return f"ViewFeatures({[(one.view.name, one.names, dict(one.view.definition)) for one in self.selections]})"


def _features_of(selection: Selection) -> list[Feature]:
    declared = {feature.name: feature for feature in selection.view.features}
    return [declared[name] for name in selection.names]


def _selected(whole: View, selection: Selection) -> View:
    """The view with the selected features, in their order, and when they were known."""
    joined = {feature.name: feature for feature in whole.features}
    known = replace(joined[EVENT_TIME], name=known_at_column(selection.view.name))
    return replace(whole, features=[*(joined[name] for name in selection.names), known])
