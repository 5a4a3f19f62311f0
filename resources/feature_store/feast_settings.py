"""Feast's settings of an environment: its registry, and the lake and the online store that the plugins read.

Belongs here: what feature_store.yaml says, and writing it. Not here: anything that imports Feast.
"""

from typing import Any

import yaml

from resources.environment import Environment
from resources.feature_store.online_resource import OnlineStore
from resources.warehouse import Warehouse

PROJECT = "headwater"
"""Feast's project, under which the online store knows every view."""

FILE = "feature_store.yaml"


def feast_settings(environment: Environment) -> dict[str, Any]:
    """What feature_store.yaml says; no secrets, which the plugins take from the process's environment."""
    lake, online = Warehouse.of(environment), OnlineStore.of(environment)
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": str(environment.feast / "registry.db"),
        "entity_key_serialization_version": 3,
        "offline_store": {
            "type": "resources.feature_store.offline_store.LakeOfflineStore",
            "catalog": lake.catalog,
            "data": lake.data,
            "extensions": lake.extensions,
            "threads": lake.threads,
            "memory": lake.memory,
        },
        "online_store": {
            "type": "resources.feature_store.online_store.HeadwaterOnlineStore",
            "address": online.address,
            "namespace": online.namespace,
        },
    }


def write_feast_settings(environment: Environment) -> None:
    """Write feature_store.yaml into the environment's folder for Feast."""
    environment.feast.mkdir(parents=True, exist_ok=True)
    (environment.feast / FILE).write_text(yaml.safe_dump(feast_settings(environment), sort_keys=False))
