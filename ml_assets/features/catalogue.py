"""Every declared feature of every team.

Belongs here: finding the declarations, and what must be unique among them. Not here: any declaration.
"""

import importlib
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from ml_assets.declaration_error import DeclarationError
from ml_assets.features.views import Entity, FeatureService, FeatureView, OnDemandTransform

_FOLDER = Path(__file__).parents[1]


@dataclass(frozen=True)
class Catalogue:
    """Declarations that belong together; the names of views, transforms and services are one namespace, as Feast's."""

    views: tuple[FeatureView, ...]
    transforms: tuple[OnDemandTransform, ...] = ()
    services: tuple[FeatureService, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two declarations of one name, and what refers to an undeclared one.

        Raises:
            DeclarationError: names them.
        """
        names = [view.name for view in self.views]
        names += [transform.name for transform in self.transforms] + [service.name for service in self.services]
        counts = Counter(names)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise DeclarationError(f"declared twice: {', '.join(twice)}; rename one of each")
        for entity in self.entities:
            other = next((e for e in self.entities if e.name == entity.name and e != entity), None)
            if other:
                raise DeclarationError(f"entity {entity.name!r} is declared twice, differently: {entity} and {other}")
        for transform in self.transforms:
            self._check_known(f"transform {transform.name!r}", transform.reads.view)
        for service in self.services:
            for selection in service.selections:
                self._check_known(f"service {service.name!r}", selection.view)
            for transform in service.transforms:
                if transform not in self.transforms:
                    raise DeclarationError(f"service {service.name!r} uses {transform.name!r}, which is not declared")

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """Every entity that a view describes, in the order of declaration."""
        return tuple(dict.fromkeys(entity for view in self.views for entity in view.entities))

    def view(self, name: str) -> FeatureView:
        """The view called `name`.

        Raises:
            DeclarationError: there is none; the message lists those there are.
        """
        found = next((view for view in self.views if view.name == name), None)
        if found is None:
            raise DeclarationError(f"no view is called {name!r}; there are {', '.join(v.name for v in self.views)}")
        return found

    def _check_known(self, where: str, view: FeatureView) -> None:
        if view not in self.views:
            raise DeclarationError(f"{where} reads view {view.name!r}, which no feature_views.py declares")


@cache
def catalogue() -> Catalogue:
    """What the folders of `ml_assets` declare in their `feature_views.py`."""
    return declared_in(_FOLDER, "ml_assets")


def declared_in(folder: Path, package: str) -> Catalogue:
    """What every `feature_views.py` in a folder of `folder` declares: its views, transforms and services, by name.

    Args:
        folder: where the folders are.
        package: its name, to import the modules by.

    Raises:
        DeclarationError: two declarations have one name, or one refers to what is declared nowhere.
    """
    paths = sorted(folder.glob("*/feature_views.py"))
    modules = [importlib.import_module(f"{package}.{path.parent.name}.feature_views") for path in paths]
    # A module may import what another one declares; both have the same object then.
    found = {id(one): one for module in modules for one in vars(module).values()}.values()
    return Catalogue(
        tuple(one for one in found if isinstance(one, FeatureView)),
        tuple(one for one in found if isinstance(one, OnDemandTransform)),
        tuple(one for one in found if isinstance(one, FeatureService)),
    )
