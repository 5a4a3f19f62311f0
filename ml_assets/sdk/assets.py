"""From declarations to assets: the one call that a project makes.

Belongs here: which assets a declaration becomes. Not here: the assets (`training_set_assets.py`, `fold_assets.py`,
`monitor_assets.py`).
"""

import dagster as dg

from ml_assets.declaration_error import DeclarationError
from ml_assets.sdk.declarations import Model, TrainingSet
from ml_assets.sdk.fold_assets import fold_assets
from ml_assets.sdk.monitor_assets import monitor_asset
from ml_assets.sdk.training_set_assets import training_set_asset


def project_assets(*models: Model) -> dg.Definitions:
    """Everything that `models` declare, ready to be merged into a code location.

    Its resources are `warehouse`, `model_registry` and `checker`.

    Raises:
        DeclarationError: two training sets or models share a name but not their declaration.
    """
    declared: dict[dg.AssetKey, TrainingSet] = {}
    for model in models:
        known = declared.setdefault(model.training_set.key, model.training_set)
        if known != model.training_set:
            raise DeclarationError(f"two training sets are called {known.key.to_user_string()}; rename one")
    names = [model.registered_name for model in models]
    if len(set(names)) < len(names):
        raise DeclarationError(f"two models share a name: {', '.join(sorted(names))}; rename one")
    assets = [training_set_asset(one) for one in declared.values()]
    for model in models:
        assets.append(fold_assets(model))
        if model.monitor is not None and model.batch:
            assets.append(monitor_asset(model, model.monitor))
    return dg.Definitions(assets=assets)
