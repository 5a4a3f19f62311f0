"""A point-in-time join by one of Feast's own offline stores: `python feast_stores.py file|duckdb FOLDER`.

Belongs here: only what a Python that has Feast and nothing of this repository can run, for the DuckDB store needs
releases that do not fit the platform's. Not here: what is asked and what is made of the answer (`features.py`).

Reads `views.json`, a Parquet file for each view, and `asked.parquet`. For each line on standard input it joins once,
writes `answer_<store>.parquet`, and prints the seconds that it took, the answer's rows and their checksum, which does
not depend on their order, as JSON.
"""
# What is measured is Feast.

import json
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

TYPES = {"BIGINT": Int64, "DOUBLE": Float64, "VARCHAR": String}


def feature_store(kind: str, folder: Path) -> tuple[FeatureStore, list[str]]:
    """A project over the files of `folder`, and the references of all its features."""
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / f"{kind}.registry.db"),
            offline_store={"type": kind},
            online_store={"type": "sqlite", "path": str(folder / f"{kind}.online.db")},
            entity_key_serialization_version=3,
        )
    )
    references = []
    for view in json.loads((folder / "views.json").read_text()):
        entity = Entity(name=view["entity"], join_keys=[view["key"]], value_type=ValueType.INT64)
        schema = [Field(name=name, dtype=TYPES[type_]) for name, type_ in view["features"].items()]
        source = FileSource(path=str(folder / f"{view['name']}.parquet"), timestamp_field="event_time")
        ttl = timedelta(seconds=view["ttl_seconds"])
        store.apply([entity, FeatureView(name=view["name"], entities=[entity], ttl=ttl, schema=schema, source=source)])
        references += [f"{view['name']}:{name}" for name in view["features"]]
    return store, references


def main(kind: str, folder: Path) -> None:
    """Join once for each line that comes in, and tell of each."""
    warnings.simplefilter("ignore")
    store, references = feature_store(kind, folder)
    frame = pq.read_table(folder / "asked.parquet").to_pandas()
    for _ in sys.stdin:
        began = time.perf_counter()
        answer = store.get_historical_features(frame, references).to_arrow()
        took = time.perf_counter() - began
        answer = answer.select(sorted(answer.column_names))
        pq.write_table(answer, folder / f"answer_{kind}.parquet")
        checksum = pd.util.hash_pandas_object(answer.to_pandas(), index=False).sum()
        print(json.dumps({"seconds": took, "rows": answer.num_rows, "checksum": f"{int(checksum):016x}"}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
