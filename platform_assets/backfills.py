"""How a backfill cuts its partitions into runs: each range of them is one run.

Belongs here: the backfill policy of each code location. Not here: which runs a recovery needs (`plans/`).

Dagster 1.13 puts all assets that a backfill finds ready at once, and that have one calendar, the same partitions and
one backfill policy, into one run, whichever code location they are of. No location can build another's assets: the
backfill fails. So every location has a policy of its own. They mean the same.
"""

from collections.abc import Mapping

import dagster as dg

_NO_LIMIT = 1_000_000

ONE_RUN: Mapping[str, dg.BackfillPolicy] = {
    "platform_assets": dg.BackfillPolicy.single_run(),
    "ml_assets": dg.BackfillPolicy.multi_run(max_partitions_per_run=_NO_LIMIT),
}
"""By code location."""
