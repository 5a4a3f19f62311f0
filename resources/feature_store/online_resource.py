"""The online store as a Dagster resource.

Belongs here: where it is, for assets. Not here: its rows (`online_rows.py`), Feast's settings (`feast_settings.py`).
"""

import dagster as dg
from pydantic import Field

from resources.environment import Environment
from resources.feature_store.online_rows import OnlineRows, open_rows


class OnlineStore(dg.ConfigurableResource["OnlineStore"]):
    """Packed rows for serving, in SQLite or Redis."""

    address: str = Field(description="A SQLite file, or redis://user@host:port/number.")
    namespace: str = Field(description="Keeps environments that share one Redis apart.")

    @classmethod
    def of(cls, environment: Environment) -> "OnlineStore":
        """The online store of `environment`."""
        return cls(address=environment.online_store, namespace=f"headwater:{environment.name}")

    def rows(self) -> OnlineRows:
        """Its rows; nothing is connected yet."""
        return open_rows(self.address, self.namespace)
