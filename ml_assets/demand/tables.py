"""The demand tables as the catalog and the lake know them: keys, columns, where each column comes from.

Belongs here: one declaration of every column of every demand table, and reading stored weeks. Not here: how a
column is computed (`features.py`, `training.py`, `evaluation.py`), which step writes it (`assets.py`,
`folds.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import duckdb

from ml_assets.demand.features import FEATURES, NAMES
from ml_assets.demand.training import LABEL
from platform_assets.table_metadata import table_metadata
from resources.warehouse import PARTITION_KEY, TableName, Warehouse, physical_partitions

TEAM = "commerce"

PRODUCT_WEEKS = dg.AssetKey([TEAM, "product_weeks"])
FEATURE_TABLE = dg.AssetKey([TEAM, "product_week_features"])
TRAINING_TABLE = dg.AssetKey([TEAM, "demand_training_set"])
MODEL = dg.AssetKey([TEAM, "demand_model"])
EVALUATION = dg.AssetKey([TEAM, "demand_evaluation"])
VERSION = dg.AssetKey([TEAM, "demand_model_version"])
FORECAST = dg.AssetKey([TEAM, "demand_forecast"])


class MissingWeek(LookupError):
    """A week that a step needs is not in the lake; the message names table and week."""


@dataclass(frozen=True)
class Column:
    """A column of a demand table and the upstream columns that it is computed from."""

    name: str
    type: str
    description: str
    sources: tuple[tuple[dg.AssetKey, str], ...] = ()


def _from(table: dg.AssetKey, columns: Iterable[str]) -> tuple[tuple[dg.AssetKey, str], ...]:
    return tuple((table, column) for column in columns)


_KEY = Column(PARTITION_KEY, "VARCHAR", "Dagster partition key of the row: the Monday, local time of the team.")
_HOLDOUT = _from(TRAINING_TABLE, (*NAMES, LABEL))

FEATURE_COLUMNS = (
    Column("feature_week", "DATE", "Week at whose start the features were known.", _from(PRODUCT_WEEKS, ["week"])),
    Column("product_id", "BIGINT", "Product sold in the 8 weeks before.", _from(PRODUCT_WEEKS, ["product_id"])),
    *(Column(f.name, f.type, f.description, _from(PRODUCT_WEEKS, f.columns)) for f in FEATURES),
    _KEY,
)
COLUMNS: dict[dg.AssetKey, tuple[Column, ...]] = {
    FEATURE_TABLE: FEATURE_COLUMNS,
    TRAINING_TABLE: (
        *(Column(c.name, c.type, c.description, _from(FEATURE_TABLE, [c.name])) for c in FEATURE_COLUMNS[:-1]),
        Column(LABEL, "BIGINT", "Units then sold in the week; 0 without a sale.", _from(PRODUCT_WEEKS, ["units"])),
        _KEY,
    ),
    EVALUATION: (
        Column("week", "DATE", "Week of the fold, the one the model is to forecast."),
        Column("holdout_week", "DATE", "Last week known then, which the model was judged on."),
        Column("model_digest", "VARCHAR", "SHA-256 of the judged model's text.", _HOLDOUT),
        Column("rows", "BIGINT", "Products judged.", _from(TRAINING_TABLE, ["product_id"])),
        Column("units", "BIGINT", "Units sold in the holdout week.", _from(TRAINING_TABLE, [LABEL])),
        Column("bias", "DOUBLE", "Sum of the forecast over the units sold; 1 is unbiased.", _HOLDOUT),
        Column("wape_model", "DOUBLE", "Sum of the model's absolute errors over the units sold.", _HOLDOUT),
        Column(
            "wape_last_week",
            "DOUBLE",
            "The same error of last week's units.",
            _from(TRAINING_TABLE, ["units_lag_1", LABEL]),
        ),
        Column(
            "wape_four_week_mean",
            "DOUBLE",
            "The same error of the mean of the last four weeks.",
            _from(TRAINING_TABLE, ["units_mean_4", LABEL]),
        ),
        _KEY,
    ),
    FORECAST: (
        Column("week", "DATE", "Week that is forecast.", _from(FEATURE_TABLE, ["feature_week"])),
        Column(
            "product_id",
            "BIGINT",
            "Product sold in the 8 weeks before.",
            _from(FEATURE_TABLE, ["product_id"]),
        ),
        Column("forecast_units", "DOUBLE", "Expected units sold in the week.", _from(FEATURE_TABLE, NAMES)),
        Column("model_digest", "VARCHAR", "SHA-256 of the model used, a tag of its MLflow version."),
        _KEY,
    ),
}


def column_metadata(key: dg.AssetKey) -> dict[str, Any]:
    """Columns of table `key` and the direct upstream columns of each, for the catalog."""
    return table_metadata(
        [dg.TableColumn(column.name, column.type, column.description) for column in COLUMNS[key]],
        {column.name: [dg.TableColumnDep(table, name) for table, name in column.sources] for column in COLUMNS[key]},
    )


def weeks_around(week: str, first: int, last: int) -> list[str]:
    """The keys of the weeks `first` to `last` relative to the week with key `week`, in order."""
    monday = date.fromisoformat(week)
    return [(monday + timedelta(weeks=offset)).isoformat() for offset in range(first, last + 1)]


def stored(
    warehouse: Warehouse, lake: duckdb.DuckDBPyConnection, key: dg.AssetKey, weeks: Iterable[str]
) -> duckdb.DuckDBPyRelation:
    """The rows of table `key` for `weeks`, all of which must be physically there.

    Raises:
        MissingWeek: the lake lacks some; the message names them and what to build.
    """
    wanted: Sequence[str] = sorted(set(weeks))
    table = TableName.of_key(key)
    missing = sorted(set(wanted) - physical_partitions(lake, table).keys())
    if missing:
        raise MissingWeek(
            f"{table} has no rows for {', '.join(missing)}; materialize these partitions of "
            f"{key.to_user_string()} first, then this step again"
        )
    return warehouse.relation(lake, table, wanted)
