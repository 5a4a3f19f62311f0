"""Every declared feature of every team.

Belongs here: finding the declarations, and what must be unique among them. Not here: any declaration.
"""

import importlib
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TypeAlias

from ml_assets.declaration_error import DeclarationError
from ml_assets.discovery import declaring
from ml_assets.features.views import Entity, FeatureService, FeatureView, OnDemandTransform

_FOLDER = Path(__file__).parents[1]
_Declared: TypeAlias = FeatureView | OnDemandTransform | FeatureService


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
        DeclarationError: two declarations have one name, one refers to what is declared nowhere, or a file has none.
    """
    found: dict[int, _Declared] = {}
    files: dict[str, str] = {}
    for place in declaring(folder, "feature_views.py"):
        module = importlib.import_module(f"{package}.{place}.feature_views")
        file = f"{package}/{place}/feature_views.py"
        declared = [one for one in vars(module).values() if isinstance(one, _Declared)]
        if not declared:
            raise DeclarationError(f"{file} declares nothing: give it a feature view, or remove it")
        for one in declared:
            # A module may import what another one declares; both have the same object then.
            if id(one) not in found and files.setdefault(one.name, file) != file:
                raise DeclarationError(f"{one.name!r} is declared twice, in {files[one.name]} and {file}; rename one")
            found[id(one)] = one
    return Catalogue(
        tuple(one for one in found.values() if isinstance(one, FeatureView)),
        tuple(one for one in found.values() if isinstance(one, OnDemandTransform)),
        tuple(one for one in found.values() if isinstance(one, FeatureService)),
    )
