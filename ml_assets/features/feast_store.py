"""Feast's own store over an environment: for training sets and clients that know Feast.

Belongs here: opening it and telling it what is declared. Not here: Feast's objects (`feast_objects.py`).
"""

import warnings
from datetime import datetime
from typing import Any

from feast import FeatureStore, RepoConfig

from ml_assets.features.catalogue import catalogue
from ml_assets.features.feast_objects import feast_objects
from resources.environment import Environment
from resources.feature_store.feast_settings import feast_settings


def feature_store(environment: Environment, now: datetime | None = None) -> FeatureStore:
    """Feast's store of `environment`; online values are as old as `now` says, the clock unless given."""
    settings = feast_settings(environment)
    if now is not None:
        settings["online_store"]["now"] = now
    return FeatureStore(config=RepoConfig(**settings))


def apply(environment: Environment) -> None:
    """Tell Feast's registry what is declared now; what is declared no longer is taken out, with its online rows."""
    environment.feast.mkdir(parents=True, exist_ok=True)
    store = feature_store(environment)
    declared = feast_objects(catalogue())
    names = {one.name for one in declared.values()}
    known: list[Any] = [*store.list_all_feature_views(), *store.list_feature_services(), *store.list_entities()]
    objects: list[Any] = list(declared.values())
    # Feast keeps an entity of its own for views without one.
    gone = [one for one in known if one.name not in names and not one.name.startswith("__")]
    with warnings.catch_warnings():
        # Feast calls every on-demand view experimental; its release is pinned, and the tests drive what we use of it.
        warnings.filterwarnings("ignore", "On demand feature view", RuntimeWarning)
        store.apply(objects, objects_to_delete=gone, partial=False)
