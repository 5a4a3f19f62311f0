"""How a dbt model becomes an asset: key, team, calendar, mappings, automation.

Belongs here: the translation of one model's properties. Not here: running dbt.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtProject

from platform_assets import partitions
from platform_assets.asset_graph.completeness import Completeness, Storage
from platform_assets.asset_graph.declared import PRODUCT
from platform_assets.automation import when_upstream_complete
from platform_assets.calendars import first_ambiguous_bound
from platform_assets.teams import team_of
from resources.warehouse import PARTITION_KEY


class LakeTranslator(DagsterDbtTranslator):
    """Keys are [team, model]; the model's own `config.meta` says its calendar and lookbacks."""

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """The asset of a model or source; see `DagsterDbtTranslator`."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = self.get_resource_props(manifest, unique_id)
        if node["resource_type"] != "model":
            return spec
        layer = node["fqn"][1]
        storage: Storage = "view" if node["config"]["materialized"] == "lake_view" else "table"
        spec = spec.replace_attributes(
            kinds={"dbt", "duckdb", storage},
            tags={**spec.tags, "layer": layer},
            metadata={**spec.metadata, **_completeness(manifest, node, storage).metadata, **_product(node)},
        )
        return spec.replace_attributes(automation_condition=when_upstream_complete(spec))

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """[team, entity]: the table's schema and name."""
        node = dbt_resource_props
        return dg.AssetKey([node["schema"], node.get("alias") or node["identifier"]])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The team and the layer; raw tables are the team's sources."""
        layer = dbt_resource_props["fqn"][1] if dbt_resource_props["resource_type"] == "model" else "sources"
        return team_of(dbt_resource_props["schema"]).group(layer)

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        """The team that owns the schema."""
        return [team_of(dbt_resource_props["schema"]).owner]

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The model's own description, without the SQL that dagster-dbt would append."""
        return str(dbt_resource_props["description"])

    def get_partitions_def(self, dbt_resource_props: Mapping[str, Any]) -> dg.PartitionsDefinition | None:
        """The team's calendar at the grain that the model declares."""
        node = dbt_resource_props
        calendar = partitions.calendar_of(node["schema"], grain_of(node))
        if calendar is not None:
            _refuse_ambiguous_hours(node, calendar)
        return calendar

    def get_partition_mapping(
        self, dbt_resource_props: Mapping[str, Any], dbt_parent_resource_props: Mapping[str, Any]
    ) -> dg.PartitionMapping | None:
        """Same time, with the lookback that the model declares for this upstream."""
        if "none" in (grain_of(dbt_resource_props), grain_of(dbt_parent_resource_props)):
            return None
        lookbacks = _meta(dbt_resource_props).get("lookback", {})
        return partitions.same_time(lookbacks.get(dbt_parent_resource_props["name"], 0))


def _product(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Marts are products of the graph, unless their `config.meta.product` says otherwise; so may be other models.

    Raises:
        ValueError: it says neither true nor false.
    """
    said = _meta(node).get("product", node["fqn"][1] == "marts")
    if not isinstance(said, bool):
        raise ValueError(f"{node['original_file_path']}: config.meta.product is {said!r}; allowed: true, false")
    return PRODUCT if said else {}


def grain_of(node: Mapping[str, Any]) -> str:
    """hourly, daily, weekly, monthly or none, as the node's `config.meta.partitions` says.

    Raises:
        KeyError: a model or source that does not say it.
    """
    grain = _meta(node).get("partitions")
    if grain is None:
        raise KeyError(
            f"dbt {node['resource_type']} {node['name']!r} declares no config.meta.partitions; "
            f"set it to hourly, daily, weekly, monthly or none in {node['original_file_path']}"
        )
    return str(grain)


def _refuse_ambiguous_hours(node: Mapping[str, Any], calendar: dg.TimeWindowPartitionsDefinition) -> None:
    """Refuse an hourly model that tells the partitions of its rows by local time where an hour comes twice.

    Raises:
        ValueError: names the model's file and what to declare.
    """
    column = _meta(node).get("partition_column")
    if column in (None, PARTITION_KEY):
        return
    bound = first_ambiguous_bound(calendar, calendar.timezone)
    if bound is not None:
        raise ValueError(
            f"{node['original_file_path']}: partition_column {column!r} is local time of {calendar.timezone}, where "
            f"{bound:%Y-%m-%d %H:%M} comes twice; pass the upstream's partition_key through, or compute it by "
            "hour_key, and say partition_column: partition_key"
        )


def _completeness(manifest: Mapping[str, Any], node: Mapping[str, Any], storage: Storage) -> Completeness:
    """What the model's `config.meta` declares, with upstream models and sources by their dbt names.

    Raises:
        ValueError: an upstream that the model does not read, or a policy that does not exist.
    """
    nodes = {**manifest["nodes"], **manifest["sources"]}
    parents = [nodes[parent] for parent in node["depends_on"]["nodes"] if parent in nodes]
    assets = {parent["name"]: f"{parent['schema']}/{parent.get('alias') or parent['identifier']}" for parent in parents}
    meta = _meta(node)

    def asset(upstream: str) -> str:
        if upstream not in assets:
            raise ValueError(
                f"{node['original_file_path']}: config.meta names {upstream!r}, which the model does not read; "
                f"it reads {', '.join(sorted(assets)) or 'nothing'}"
            )
        return assets[upstream]

    try:
        return Completeness(
            storage=storage,
            may_be_empty=meta.get("may_be_empty", True),
            optional=tuple(asset(upstream) for upstream in meta.get("optional", ())),
            when_late={asset(upstream): policy for upstream, policy in meta.get("when_late", {}).items()},
            late_after_hours=meta.get("late_after_hours", Completeness().late_after_hours),
            due_after_hours=meta.get("due_after_hours", Completeness().due_after_hours),
            immutable_before=meta.get("immutable_before"),
        )
    except ValueError as error:
        raise ValueError(f"{node['original_file_path']}: {error}") from error


def _meta(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return node.get("config", {}).get("meta") or node.get("meta") or {}
