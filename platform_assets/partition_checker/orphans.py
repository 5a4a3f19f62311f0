"""What is stored of assets that no code location declares any more: renamed or deleted ones leave it behind.

Belongs here: finding it, and removing it. Not here: printing (`command.py`, `orphans_command.py`), and pairs of assets
that are declared (`states.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from platform_assets.asset_graph.graph import Graph
from platform_assets.partition_checker.facts import Inspector
from resources.feature_store.feast_settings import PROJECT
from resources.feature_store.online_rows import OnlineRows
from resources.feature_store.served_view import stored_as
from resources.warehouse import Commit, TableName

ONLINE = "_online"
"""What the name of the asset that brings a view to the online store adds to the view's."""


@dataclass(frozen=True)
class Orphan:
    """An asset that nobody declares, and what is stored of it.

    Attributes:
        asset: "team/entity"; of online rows whose team nothing tells, the entity alone.
        receipts: how many, the history included.
        is_table: whether the lake has a table or view of its name.
        online_rows: how many keys the online store has of its view.
    """

    asset: str
    receipts: int = 0
    is_table: bool = False
    online_rows: int = 0

    @property
    def words(self) -> str:
        """What is stored, for people."""
        held = [f"{self.receipts:,} receipts"] if self.receipts else []
        held += ["a table or view of the lake"] if self.is_table else []
        held += [f"{self.online_rows:,} online rows"] if self.online_rows else []
        return f"no code location declares it; there are {', '.join(held)}"


def orphans(inspector: Inspector, online: OnlineRows) -> list[Orphan]:
    """Everything stored that no asset of the graph accounts for, by name.

    Raises:
        LakeError, LedgerError, OnlineStoreError: a store cannot be read.
    """
    declared = inspector.graph.named
    receipts = {asset: count for asset, count in inspector.ledger.assets().items() if asset not in declared}
    stored = {*inspector.catalog.warehouse.tables(), *inspector.catalog.views()}
    tables = {name for table in stored if (name := f"{table.schema}/{table.name}") not in declared}
    rows = _online_rows(inspector.graph, online, {*receipts, *tables})
    return [
        Orphan(name, receipts.get(name, 0), name in tables, rows.get(name, 0))
        for name in sorted({*receipts, *tables, *rows})
    ]


def forget(inspector: Inspector, online: OnlineRows, orphan: Orphan, *, with_events: bool = False) -> None:
    """Remove all that is stored of an orphan, the receipts last: one that is interrupted is found and gone on with.

    Args:
        inspector: of the environment.
        online: the online store.
        orphan: as `orphans` found it.
        with_events: delete Dagster's events of the asset too, which the web UI shows.
    """
    team, _, entity = orphan.asset.rpartition("/")
    if orphan.online_rows:
        online.delete(stored_as(PROJECT, entity.removesuffix(ONLINE)))
    if orphan.is_table:
        inspector.catalog.warehouse.drop(TableName(team, entity), Commit("headwater forget", orphan.asset))
    if with_events:
        inspector.instance.wipe_assets([dg.AssetKey(orphan.asset.split("/"))])
    inspector.ledger.erase(orphan.asset)


def _online_rows(graph: Graph, online: OnlineRows, others: set[str]) -> Mapping[str, int]:
    """By asset the keys of views that no declared asset brings to the store; `others` tell the team."""
    declared = {name.rpartition("/")[2] for name in graph.named}
    teams = {name.rpartition("/")[2]: name for name in others}
    found = {}
    for stored in online.views():
        project, _, view = stored.rpartition("/")
        entity = f"{view}{ONLINE}"
        if project == PROJECT and entity not in declared:
            found[teams.get(entity, entity)] = online.count(stored)
    return found
