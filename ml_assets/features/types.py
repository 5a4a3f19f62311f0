"""The types that a feature or a join key may be declared with, and what each is called where features go.

Belongs here: one line a type. Not here: views (`views.py`), the stores (`resources/feature_store/`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT")
_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE")


@dataclass(frozen=True)
class FeatureType:
    """One type.

    Attributes:
        duckdb: what a value is cast to when it leaves the lake.
        packed: the type of its column in a packed row.
        feast: the name of Feast's value type.
        holds: DuckDB's types of which it holds every value, without their parameters.
    """

    duckdb: str
    packed: str
    feast: str
    holds: tuple[str, ...]

    def accepts(self, stored: str) -> bool:
        """Whether a column of DuckDB type `stored` can be read as this type."""
        return stored.partition("(")[0] in self.holds


TYPES: Mapping[str, FeatureType] = {
    "BOOLEAN": FeatureType("BOOLEAN", "bool", "BOOL", ("BOOLEAN",)),
    "BIGINT": FeatureType(
        "BIGINT", "int64", "INT64", (*_INTEGERS, "BIGINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT")
    ),
    "DOUBLE": FeatureType("DOUBLE", "float64", "DOUBLE", (*_INTEGERS, "FLOAT", "DOUBLE", "DECIMAL")),
    "VARCHAR": FeatureType("VARCHAR", "string", "STRING", ("VARCHAR", "UUID", "ENUM")),
    "TIMESTAMPTZ": FeatureType("TIMESTAMP WITH TIME ZONE", "timestamp", "UNIX_TIMESTAMP", _TIMES),
}
"""Every type by the name that declarations use."""

KEY_TYPES = ("BIGINT", "VARCHAR")
"""Types that a join key may have."""
