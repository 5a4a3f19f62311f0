"""A code location of one asset, one check, one job and one sensor; for the tests of the web server."""

import dagster as dg


@dg.asset(check_specs=[dg.AssetCheckSpec("heard", asset="bell")])
def bell() -> dg.MaterializeResult:
    """One bell."""
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])


@dg.op
def strike() -> None:
    """Nothing to do."""


@dg.job
def ring() -> None:
    """Strikes once."""
    strike()


@dg.sensor(job=ring)
def visitors() -> dg.SkipReason:
    """Nobody comes."""
    return dg.SkipReason("nobody")


defs = dg.Definitions(assets=[bell], jobs=[ring], sensors=[visitors])
