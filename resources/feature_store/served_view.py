"""A feature view as serving knows it: names, types and for how long a value may be used.

Belongs here: that declaration, in plain Python. Not here: Feast's own feature views, which `online_store.py` turns into
rows of the same form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

from resources.feature_store.entity_keys import EntityKeys
from resources.feature_store.packed_rows import RowSchema


@dataclass(frozen=True, eq=False)
class ServedView:
    """One feature view.

    Attributes:
        name: of the view.
        join_keys: types by name, of `entity_keys.KEY_TYPES`.
        features: types by name, of `packed_rows.COLUMN_TYPES`.
        ttl: a value whose event is longer ago is not served; None is no limit.
        project: of Feast, whose views are named apart from those of another.
    """

    name: str
    join_keys: Mapping[str, str]
    features: Mapping[str, str]
    ttl: timedelta | None = None
    project: str = field(default="headwater", kw_only=True)

    @cached_property
    def stored_as(self) -> str:
        """What the online store knows the view by."""
        return stored_as(self.project, self.name)

    @cached_property
    def keys(self) -> EntityKeys:
        """Encodes the view's keys."""
        return EntityKeys(self.stored_as, self.join_keys)

    @cached_property
    def schema(self) -> RowSchema:
        """The columns of the view's rows."""
        return row_schema(self.features)


def stored_as(project: str, view: str) -> str:
    """What the online store knows a view by."""
    return f"{project}/{view}"


def row_schema(features: Mapping[str, str]) -> RowSchema:
    """The columns of a view's rows: the features by name, in whatever order they were declared."""
    return RowSchema(tuple(sorted(features.items())))
