"""A partitioned blocking check holds back its own partition across runs, and no other."""

from collections.abc import Iterator

import dagster as dg

from platform_assets import automation
from platform_assets.partitioned_checks import evaluated_materializations, evaluation_of, partitioned_check

CALENDAR = dg.DailyPartitionsDefinition("2017-01-01", end_date="2017-01-04")
CANDIDATE, PROMOTED = dg.AssetKey("candidate"), dg.AssetKey("promoted")
GATE = partitioned_check("gate", CANDIDATE, CALENDAR, "Lets good days through.", blocking=True)
DAYS = CALENDAR.get_partition_keys()


class Judge(dg.Config):
    refused: list[str]


@dg.multi_asset(
    specs=[dg.AssetSpec(CANDIDATE, skippable=True)],
    check_specs=[GATE],
    partitions_def=CALENDAR,
    backfill_policy=dg.BackfillPolicy.single_run(),
    can_subset=True,
)
def candidate(
    context: dg.AssetExecutionContext, config: Judge
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    for day in context.partition_keys:
        yield dg.AssetMaterialization(CANDIDATE, partition=day)
        passed = day not in config.refused
        judged = evaluated_materializations(context.instance, CANDIDATE, [day])
        yield evaluation_of(judged, GATE, day, passed=passed, description="judged", metadata={})


@dg.asset(
    key=PROMOTED,
    deps=[CANDIDATE],
    partitions_def=CALENDAR,
    automation_condition=automation.when_upstream_complete(dg.AssetSpec(PROMOTED, deps=[CANDIDATE])),
)
def promoted() -> None:
    """Never run here; only requested."""


def judge(instance: dg.DagsterInstance, days: list[str], refused: list[str]) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [candidate],
        instance=instance,
        run_config={"ops": {"candidate": {"config": {"refused": refused}}}},
        tags={"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]},
        raise_on_error=False,
    )


def test_automation_asks_for_what_passed_and_for_the_rest_once_it_passes() -> None:
    defs = dg.Definitions([candidate, promoted])
    with dg.DagsterInstance.ephemeral() as instance:
        idle = dg.evaluate_automation_conditions(defs, instance)
        assert not judge(instance, DAYS, refused=[DAYS[1]]).success
        first = dg.evaluate_automation_conditions(defs, instance, cursor=idle.cursor)
        assert first.get_requested_partitions(PROMOTED) == {DAYS[0], DAYS[2]}
        again = dg.evaluate_automation_conditions(defs, instance, cursor=first.cursor)
        assert again.total_requested == 0
        assert judge(instance, [DAYS[1]], refused=[]).success
        mended = dg.evaluate_automation_conditions(defs, instance, cursor=again.cursor)
        assert mended.get_requested_partitions(PROMOTED) == {DAYS[1]}


def test_a_verdict_names_the_materialization_it_judged() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = judge(instance, DAYS[:1], refused=[])
        (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.partition, evaluation.passed, evaluation.blocking) == (DAYS[0], True, True)
    assert evaluation.target_materialization_data is not None
    assert evaluation.target_materialization_data.run_id == result.run_id
