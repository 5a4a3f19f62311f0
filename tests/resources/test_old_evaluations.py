"""A test's verdict on all partitions of a run, of a home of before, becomes one on each partition."""

from collections.abc import Iterator

import dagster as dg
import pytest

from platform_assets.partitioned_checks import evaluations_again, partitioned_check
from resources.environment import Environment
from resources.old_evaluations import tell_by_partition
from tests.resources.instances import opened

DAYS = dg.DailyPartitionsDefinition("2017-01-01", end_date="2017-01-06")
KEY = dg.AssetKey(["commerce", "days"])
NAME = "one_row_per_day"
NOW = partitioned_check(NAME, KEY, DAYS, "", blocking=True)


@dg.multi_asset(
    specs=[dg.AssetSpec(KEY, partitions_def=DAYS)],
    check_specs=[dg.AssetCheckSpec(NAME, asset=KEY, blocking=True)],
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def days(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output]:
    """As the parent built: one evaluation, without partition; none in a run that confirms."""
    keys = list(context.partition_keys)
    if not context.run.tags.get("confirms"):
        metadata = {"failures": 0, "first partition": keys[0], "last partition": keys[-1]}
        yield dg.AssetCheckEvaluation(KEY, NAME, True, metadata, blocking=True)
    yield dg.MaterializeResult(KEY)


def build(instance: dg.DagsterInstance, first: str, last: str, **tags: str) -> str:
    span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.materialize([days], instance=instance, tags={**span, **tags}).run_id


def states(instance: dg.DagsterInstance) -> dict[str | None, str]:
    found = instance.event_log_storage.get_asset_check_partition_info([NOW.key])
    return {i.partition_key: i.latest_execution_status.value for i in found if i.partition_key and i.is_current}


def test_each_recorded_partition_has_the_verdict_of_the_run_that_judged_it(stored_in: Environment) -> None:
    with opened(stored_in) as instance:
        built = build(instance, "2017-01-01", "2017-01-03")
        confirmed = build(instance, "2017-01-02", "2017-01-02", confirms="true")
        assert states(instance) == {}
    tell_by_partition(stored_in)
    with opened(stored_in) as instance:
        assert states(instance) == dict.fromkeys(["2017-01-01", "2017-01-02", "2017-01-03"], "SUCCEEDED")
        runs = {"2017-01-01": built, "2017-01-02": confirmed, "2017-01-03": built}
        again = evaluations_again(instance, [NOW], runs)[NOW.key]
        assert {key: one.passed for key, one in again.items()} == dict.fromkeys(runs, True)


def test_applied_again_it_changes_nothing(stored_in: Environment) -> None:
    with opened(stored_in) as instance:
        build(instance, "2017-01-01", "2017-01-03")
    tell_by_partition(stored_in)
    with opened(stored_in) as instance:
        before = instance.event_log_storage.get_asset_check_execution_history(NOW.key, limit=99)
    tell_by_partition(stored_in)
    with opened(stored_in) as instance:
        after = instance.event_log_storage.get_asset_check_execution_history(NOW.key, limit=99)
    assert [record.id for record in after] == [record.id for record in before]


def test_a_killed_upgrade_leaves_nothing_of_itself(stored_in: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    from resources.event_batches import EventBatches

    with opened(stored_in) as instance:
        build(instance, "2017-01-01", "2017-01-02")
        build(instance, "2017-01-03", "2017-01-03")
    store, calls = EventBatches.store_together, []

    def killed(self: EventBatches, *args: object) -> None:
        store(self, *args)  # type: ignore[arg-type]
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EventBatches, "store_together", killed)
        with pytest.raises(KeyboardInterrupt):
            tell_by_partition(stored_in)
    with opened(stored_in) as instance:
        assert states(instance) == {}
    tell_by_partition(stored_in)
    with opened(stored_in) as instance:
        assert len(states(instance)) == 3


def test_a_home_without_an_event_log_has_nothing_to_tell(environment: Environment) -> None:
    tell_by_partition(environment)
    assert not environment.dagster_home.exists()
