"""Event log, receipts and storage are compared; what is found is shown where it was lost, once, until it is healed."""

import uuid
from collections.abc import Mapping

import dagster as dg
import pytest

from platform_assets.automation import CUT_OFF, VERIFIED
from platform_assets.partition_checker.evaluations import ON_TIME
from platform_assets.partition_checker.facts import Inspector, Wanted
from platform_assets.partition_checker.reconcile import (
    HEALTH,
    Reconciliation,
    build_partition_health,
    build_reconciliation,
    reconcile,
)
from platform_assets.partition_checker.states import AssetStates, State
from resources.warehouse import TableName
from tests.platform_assets.partition_checker.shop import CALENDARS, DAYS, STEPS, Shop, key_of
from tests.small_graph import checker_of

DAY, NEXT = DAYS[3], DAYS[4]
PAIRS = 3 * len(DAYS) + 2 + 1


def reconciled(shop: Shop, adopts: bool = False) -> Reconciliation:
    return reconcile(shop.inspector(), f"reconciling-{uuid.uuid4()}", adopts)


@pytest.fixture
def logged(built: Shop) -> Shop:
    """A shop whose event log knows what was built."""
    assert reconciled(built).events_restored == PAIRS
    return built


def verdicts(shop: Shop, name: str, check: str = VERIFIED) -> list[tuple[str | None, bool, str | None]]:
    """Every verdict in order: partition, passed, why not."""
    history = shop.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(key_of(name), check), limit=100
    )
    return [
        (record.partition, record.evaluation.passed, record.evaluation.description)
        for record in reversed(history)
        if record.evaluation
    ]


def test_where_all_is_well_nothing_is_reported(logged: Shop) -> None:
    found = reconciled(logged)
    assert (found.unhealthy, found.evaluations, found.events_restored, found.adopted) == ([], 0, 0, 0)
    assert found.states == {State.VERIFIED: PAIRS}


def test_a_lost_pair_fails_the_check_of_its_asset_once_and_passes_it_when_it_is_rebuilt(logged: Shop) -> None:
    file = logged.file("evens", DAY)
    file.unlink()
    found = reconciled(logged)
    assert [(pair.asset, pair.partition, pair.state) for pair in found.unhealthy] == [("shop/evens", DAY, State.LOST)]
    assert found.evaluations == 1
    failed = (DAY, False, f"lost: its file {file} is gone")
    assert verdicts(logged, "evens") == [failed]
    assert reconciled(logged).evaluations == 0
    assert logged.build("evens", first=DAY).success
    assert reconciled(logged).evaluations == 1
    assert verdicts(logged, "evens") == [failed, (DAY, True, None)]
    assert reconciled(logged).evaluations == 0
    assert [verdicts(logged, name) for name in ("sales", "sums", "weeks", "summary")] == [[]] * 4


def test_a_verdict_is_about_the_materialization_that_it_judged(logged: Shop) -> None:
    logged.file("evens", DAY).unlink()
    reconciled(logged)
    check = dg.AssetCheckKey(key_of("evens"), VERIFIED)
    (info,) = logged.instance.event_log_storage.get_asset_check_partition_info([check])
    assert (info.partition_key, info.is_current) == (DAY, True)


@pytest.mark.parametrize("state", ["short", "unrecorded", "empty"])
def test_other_damage_fails_the_check_too(logged: Shop, state: str) -> None:
    if state == "short":
        file = logged.file("evens", DAY)
        file.write_bytes(file.read_bytes()[:-1])
    elif state == "unrecorded":
        logged.write("evens", DAY, [2])
    else:
        logged.sales[DAY] = [1]
        assert logged.build("sales", "evens", first=DAY).success
        logged.declare("evens", may_be_empty=False)
    reconciled(logged)
    ((partition, passed, why),) = verdicts(logged, "evens")
    assert (partition, passed, str(why).partition(":")[0]) == (DAY, False, state)


@pytest.mark.parametrize("state", ["outdated", "failed", "late"])
def test_what_is_merely_not_up_to_date_fails_no_check(logged: Shop, state: str) -> None:
    if state == "outdated":
        logged.code["evens"] = "v2"
    elif state == "failed":
        logged.sql["evens"] = "select nothing from nowhere where partition_key in {keys}"
        assert not logged.build("evens", first=DAY).success
    else:
        logged.instance.wipe_assets([key_of("evens")])
        logged.ledger.forget("shop/evens", [DAY])
        logged.write("evens", DAY, [])
    found = reconciled(logged)
    assert State(state) in {pair.state for pair in found.unhealthy}
    assert verdicts(logged, "evens") == []


def test_an_asset_without_partitions_has_one_verdict(logged: Shop) -> None:
    logged.write("summary", "", [])
    reconciled(logged)
    ((partition, passed, why),) = verdicts(logged, "summary")
    assert (partition, passed, why) == (None, False, "lost: recorded, but storage has nothing of it")


def test_what_the_event_log_has_lost_is_recorded_again_with_the_receipt_as_data_version(logged: Shop) -> None:
    logged.instance.wipe_assets([key_of(name) for name in CALENDARS])
    assert logged.instance.get_materialized_partitions(key_of("sums")) == set()
    assert reconciled(logged).events_restored == PAIRS
    for name in ("sums", "weeks", "summary"):
        for partition, receipt in logged.receipts(name).items():
            event = logged.event(name, partition)
            tags = event.tags or {}
            assert (tags["dagster/data_version"], tags["dagster/code_version"]) == (receipt.id, "v1")
            assert event.metadata["receipt"].value == receipt.id
    assert logged.instance.get_materialized_partitions(key_of("sums")) == set(DAYS)
    assert reconciled(logged).events_restored == 0


def test_a_pair_that_the_event_log_calls_built_and_is_nowhere_is_lost(logged: Shop) -> None:
    logged.ledger.forget("shop/sums", [DAY])
    logged.write("sums", DAY, [])
    assert logged.pair("sums", DAY).state is State.LATE
    found = reconciled(logged)
    (lost,) = [pair for pair in found.unhealthy if pair.state is State.LOST]
    assert (lost.asset, lost.partition) == ("shop/sums", DAY)
    assert found.states[State.LOST] == 1
    why = "the event log says that it was built, but there is no receipt, and storage has nothing of it"
    assert verdicts(logged, "sums") == [(DAY, False, f"lost: {why}")]
    assert reconciled(logged).evaluations == 0
    assert logged.build("sums", first=DAY).success
    assert reconciled(logged).evaluations == 1
    assert verdicts(logged, "sums")[-1] == (DAY, True, None)


def test_damage_is_found_together_with_an_event_log_that_is_gone(built: Shop) -> None:
    built.file("evens", DAY).unlink()
    reconciled(built)
    reconciled(built)
    assert reconciled(built).evaluations == 0
    assert verdicts(built, "evens")[-1][:2] == (DAY, False)
    check = dg.AssetCheckKey(key_of("evens"), VERIFIED)
    (info,) = built.instance.event_log_storage.get_asset_check_partition_info([check])
    assert info.is_current


def test_a_pair_that_waits_for_a_late_one_fails_on_time_where_its_asset_declares_to_be_alerted(shop: Shop) -> None:
    shop.declare("evens", when_late={"shop/sales": "alert"})
    assert shop.build("sales", first=DAYS[0], last=DAY).success
    assert shop.build("evens", first=DAYS[0]).success
    reconciled(shop)
    assert {(partition, passed) for partition, passed, _ in verdicts(shop, "evens", ON_TIME)} == {
        (day, False) for day in DAYS[4:]
    }
    assert verdicts(shop, "evens", ON_TIME)[0][2] == f"it waits for shop/sales@{NEXT}, which is late"
    assert verdicts(shop, "sums", ON_TIME) == []
    assert shop.build("sales", first=NEXT).success
    reconciled(shop)
    assert verdicts(shop, "evens", ON_TIME)[-1] == (NEXT, True, None)


def test_stored_pairs_without_a_receipt_are_adopted_on_request_only(logged: Shop) -> None:
    logged.ledger.forget("shop/evens", [DAY, NEXT])
    assert {pair.state for pair in reconciled(logged).unhealthy} == {State.UNRECORDED, State.OUTDATED}
    found = reconciled(logged, adopts=True)
    assert (found.adopted, found.unhealthy) == (2, [])
    assert verdicts(logged, "evens")[-2:] == [(DAY, True, None), (NEXT, True, None)]
    assert logged.receipts("evens")[DAY].run_id.startswith("reconciling")


def materialized(
    shop: Shop, config: Mapping[str, object] | None = None, tags: Mapping[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    """Run the asset that reconciles, over the shop and itself."""
    health = list(build_reconciliation().assets or [])
    steps = [shop.step(step) for step in STEPS]
    checker = checker_of(shop.environment, {"platform_assets": health, "shop": steps}, warehouse=shop.warehouse)
    return dg.materialize(
        health,
        instance=shop.instance,
        resources={"warehouse": shop.warehouse, "checker": checker},
        run_config={"ops": {"platform__unhealthy_pairs": {"config": config}}} if config else None,
        tags=tags,
    )


def test_the_asset_lists_the_unhealthy_pairs_in_the_lake_and_counts_them(logged: Shop) -> None:
    logged.file("evens", DAY).unlink()
    logged.ledger.forget("shop/sums", [NEXT])
    assert materialized(logged).success
    with logged.warehouse.reader() as lake:
        rows = lake.sql(f"select asset, partition, state, rows, reason from {TableName.of_key(HEALTH).sql}").fetchall()
    assert {row[:3] for row in rows} == {
        ("shop/evens", DAY, "lost"),
        ("shop/sums", NEXT, "unrecorded"),
        ("shop/weeks", DAYS[0], "outdated"),
        ("platform/unhealthy_pairs", "", "missing"),
    }
    event = logged.instance.get_latest_materialization_event(HEALTH)
    assert event
    assert event.asset_materialization
    shown = event.asset_materialization.metadata
    assert shown["pairs lost"].value == shown["pairs unrecorded"].value == 1
    assert shown["pairs verified"].value == PAIRS - 3
    assert materialized(logged, {"adopt": True}).success
    assert logged.pair("sums", NEXT).state is State.VERIFIED


def test_automation_reconciles_anew_each_time_though_nothing_that_the_asset_reads_changes(logged: Shop) -> None:
    for lost in (0, 1):
        assert materialized(logged, tags={CUT_OFF: "true"}).success
        event = logged.instance.get_latest_materialization_event(HEALTH)
        assert event
        assert event.asset_materialization
        assert event.asset_materialization.metadata["computed"].value == "yes"
        assert ("pairs lost" in event.asset_materialization.metadata) is bool(lost)
        logged.file("evens", DAY).unlink(missing_ok=True)


def test_the_check_can_be_run_by_hand_for_some_partitions(logged: Shop) -> None:
    logged.file("evens", DAY).unlink()
    assets = dg.Definitions(
        [logged.step(step) for step in STEPS], resources={"warehouse": logged.warehouse, "checker": logged.checker}
    )
    checks = dg.Definitions.merge(assets, build_partition_health("shop", assets))
    assert {key.asset_key for key in checks.resolve_asset_graph().asset_check_keys} == {key_of(n) for n in CALENDARS}
    job = dg.define_asset_job("by_hand", dg.AssetSelection.checks(dg.AssetCheckKey(key_of("evens"), VERIFIED)))
    done = (
        dg.Definitions.merge(checks, dg.Definitions(jobs=[job]))
        .resolve_job_def("by_hand")
        .execute_in_process(
            instance=logged.instance,
            tags={"dagster/asset_partition_range_start": DAY, "dagster/asset_partition_range_end": NEXT},
        )
    )
    found = {one.partition: one.passed for one in done.get_asset_check_evaluations()}
    assert found == {DAY: False, NEXT: True}


def test_a_pair_that_a_run_is_building_fails_no_check_until_that_run_has_ended(logged: Shop) -> None:
    logged.instance.add_run(dg.DagsterRun("job", run_id="going", status=dg.DagsterRunStatus.STARTED))
    logged.ledger.begin({"shop/evens": [DAY]}, "going")
    logged.ledger.forget("shop/evens", [DAY])
    found = reconciled(logged)
    (pair,) = [pair for pair in found.unhealthy if pair.asset == "shop/evens"]
    said = "it is in storage, and no receipt says how it came there"
    assert (pair.state, pair.reason) == (State.UNRECORDED, f"{said}; run going is building it now")
    assert found.evaluations == 0
    logged.ledger.failed("going", "it broke", ["shop/evens"])
    assert reconciled(logged).evaluations == 1
    assert verdicts(logged, "evens") == [(DAY, False, f"unrecorded: {said}; run going failed: it broke")]


def test_a_pair_that_is_recorded_between_the_two_looks_is_healthy(
    logged: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = logged.receipts("evens")[DAY]
    logged.ledger.forget("shop/evens", [DAY])
    look = Inspector.judged

    def judged(inspector: Inspector, wanted: Wanted) -> dict[str, AssetStates]:
        found = look(inspector, wanted)
        logged.ledger.record([receipt])
        return found

    monkeypatch.setattr(Inspector, "judged", judged)
    found = reconciled(logged)
    assert ([pair for pair in found.unhealthy if pair.asset == "shop/evens"], found.evaluations) == ([], 0)
