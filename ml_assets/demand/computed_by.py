"""Which functions compute each demand asset: what its code version is the version of.

Belongs here: one line an asset. Not here: the functions.
"""

from collections.abc import Callable, Mapping

import dagster as dg

from ml_assets.demand import evaluation, features, folds, training
from ml_assets.demand.tables import EVALUATION, FEATURE_TABLE, FORECAST, MODEL, TRAINING_TABLE, VERSION

COMPUTED_BY: Mapping[dg.AssetKey, tuple[Callable[..., object], ...]] = {
    FEATURE_TABLE: (features.product_week_features,),
    TRAINING_TABLE: (training.labelled,),
    MODEL: (folds.fit,),
    EVALUATION: (evaluation.evaluate, training.predict),
    VERSION: (evaluation.lost_to,),
    FORECAST: (training.predict,),
}
