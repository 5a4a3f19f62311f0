"""What `feast apply` finds: every declared object, as an attribute of this module.

Belongs here: nothing but that. The declarations are in each folder's `feature_views.py`, the settings are written by
`headwater prepare`.
"""

from ml_assets.features.catalogue import catalogue
from ml_assets.features.feast_objects import feast_objects

# Feast looks for objects among a module's attributes; lists of them it does not open.
globals().update(feast_objects(catalogue()))
