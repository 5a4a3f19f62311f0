"""Feast's objects from the declarations: entities, feature views, on-demand views, services.

Belongs here: that translation. Not here: any declaration, and opening a store (`feast_store.py`). Only what talks to
Feast imports this module.
"""

import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import TypeAlias, cast

from feast import Entity as FeastEntity
from feast import FeatureService as FeastService
from feast import FeatureView as FeastView
from feast import Field, OnDemandFeatureView
from feast import RequestSource as FeastRequest
from feast.feature_view_projection import FeatureViewProjection
from feast.transformation.python_transformation import PythonTransformation
from feast.types import FeastType, from_value_type
from feast.value_type import ValueType

from ml_assets.features.catalogue import Catalogue
from ml_assets.features.types import TYPES
from ml_assets.features.views import (
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandTransform,
    Selection,
)
from platform_assets.teams import team_of
from resources.feature_store.lake_source import LakeSource

FeastObject: TypeAlias = FeastEntity | FeastView | OnDemandFeatureView | FeastService


def feast_objects(catalogue: Catalogue) -> dict[str, FeastObject]:
    """Everything that Feast is to know, by a name that is unique among them."""
    entities = {entity.name: _entity(entity) for entity in catalogue.entities}
    views = {view.name: _view(view, entities) for view in catalogue.views}
    transforms = {transform.name: _transform(transform, views) for transform in catalogue.transforms}
    services = {service.name: _service(service, views, transforms) for service in catalogue.services}
    return {
        **{f"entity_{name}": entity for name, entity in entities.items()},
        **{f"view_{name}": view for name, view in views.items()},
        **{f"transform_{name}": transform for name, transform in transforms.items()},
        **{f"service_{name}": service for name, service in services.items()},
    }


def _entity(entity: Entity) -> FeastEntity:
    return FeastEntity(
        name=entity.name,
        join_keys=[entity.key],
        value_type=ValueType[TYPES[entity.type].feast],
        description=entity.description,
    )


def _view(view: FeatureView, entities: Mapping[str, FeastEntity]) -> FeastView:
    return FeastView(
        name=view.name,
        source=LakeSource(
            table=view.source,
            name=f"{view.source} for {view.name}",
            computed={view.event_column: view.event_sql} if view.event_sql else None,
            computed_from=view.timestamp_column if view.event_sql else None,
            timestamp_field=view.event_column,
            created_timestamp_column=view.created,
            # The mart's column -> the feature's name.
            field_mapping={f.column: f.name for f in view.features if f.read_from != f.name},
            description=f"The mart {view.source}.",
            owner=view.owner,
        ),
        entities=[entities[entity.name] for entity in view.entities],
        schema=[
            *(
                Field(name=key, dtype=_type(entity.type), description=entity.description)
                for key, entity in view.keys.items()
            ),
            *map(_field, view.features),
        ],
        ttl=view.ttl,
        online=view.online,
        description=view.description,
        owner=view.owner,
        tags={"team": view.team, "asset": view.source, "grain": view.grain},
    )


def _transform(transform: OnDemandTransform, views: Mapping[str, FeastView]) -> OnDemandFeatureView:
    request = FeastRequest(
        name=transform.request.name,
        schema=list(map(_field, transform.request.fields)),
        description=transform.request.description,
    )
    return OnDemandFeatureView(
        name=transform.name,
        sources=[request, _projection(transform.reads, views)],
        # Feast compares it with what it infers, which has no description.
        schema=[Field(name=transform.output.name, dtype=_type(transform.output.type))],
        feature_transformation=PythonTransformation(
            udf=cast(FunctionType, transform.of_columns), udf_string=_source(transform)
        ),
        mode="python",
        description=f"{transform.description} {transform.output.name}: {transform.output.description}",
        owner=team_of(transform.team).owner,
        tags={"team": transform.team},
    )


def _source(transform: OnDemandTransform) -> str:
    """What Feast keeps of the transform and runs: the declared function, found where it is declared.

    Its text follows as comments, so that Feast sees a change of it, and its web UI shows it.
    """
    function = transform.function
    shown = inspect.getsource(function).rstrip().splitlines()
    return "\n".join(
        [
            f"def {transform.name}(columns):",
            f"    from {function.__module__} import {function.__qualname__} as function",
            f"    inputs = {transform.inputs!r}",
            "    rows = zip(*[columns[name] for name in inputs], strict=True)",
            f"    return {{{transform.output.name!r}: [function(**dict(zip(inputs, row))) for row in rows]}}",
            "",
            *(f"# {line}".rstrip() for line in shown),
            "",
        ]
    )


def _service(
    service: FeatureService, views: Mapping[str, FeastView], transforms: Mapping[str, OnDemandFeatureView]
) -> FeastService:
    return FeastService(
        name=service.name,
        features=[
            *(views[selection.view.name][list(selection.names)] for selection in service.selections),
            *(transforms[transform.name] for transform in service.transforms),
        ],
        description=service.description,
        owner=team_of(service.team).owner,
        tags={"team": service.team},
    )


def _projection(selection: Selection, views: Mapping[str, FeastView]) -> FeatureViewProjection:
    projection: FeatureViewProjection = views[selection.view.name][list(selection.names)].projection
    return projection


def _field(feature: Feature) -> Field:
    return Field(name=feature.name, dtype=_type(feature.type), description=feature.description)


def _type(name: str) -> FeastType:
    return from_value_type(ValueType[TYPES[name].feast])
