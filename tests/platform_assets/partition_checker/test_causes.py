"""The chain of causes goes from a pair, by what it waits for or was built from, to what came first."""

import pytest

from platform_assets.partition_checker.causes import Causes
from tests.platform_assets.partition_checker.shop import DAYS, WEEKS, Shop

DAY, NEXT = DAYS[3], DAYS[4]


def chain(shop: Shop, name: str, partition: str) -> list[str]:
    """The chain as lines, without the team."""
    links = Causes(shop.inspector()).chain(f"shop/{name}", partition)
    return [str(link).removeprefix("shop/") for link in links]


def test_a_verified_pair_names_the_run_that_built_it(built: Shop) -> None:
    (line,) = chain(built, "sums", DAY)
    receipt = built.receipts("sums")[DAY]
    assert line.startswith(f"sums@{DAY} is verified: built by run {receipt.run_id} at ")
    assert line.endswith(" from 2 inputs, 1 rows")


def test_a_lost_pair_is_its_own_first_cause_and_tells_what_it_was(built: Shop) -> None:
    file = built.file("evens", DAY)
    file.unlink()
    (line,) = chain(built, "evens", DAY)
    assert line.startswith(f"evens@{DAY} is lost: its file {file} is gone. Its receipt: built by run ")


def test_what_was_never_built_leads_to_the_nearest_pair_it_waits_for(built: Shop) -> None:
    built.file("evens", DAY).unlink()
    built.ledger.forget("shop/weeks", WEEKS)
    built.write("weeks", WEEKS[0], [])
    built.ledger.forget("shop/sums", [DAY])
    built.write("sums", DAY, [])
    lines = chain(built, "weeks", WEEKS[0])
    assert [line.partition(" ")[0] for line in lines] == [f"weeks@{WEEKS[0]}", f"sums@{DAY}", f"evens@{DAY}"]
    assert all("was never built, because it needs" in line for line in lines[:2])
    assert "is lost" in lines[2]


def test_what_was_never_built_though_it_could_be_says_so(shop: Shop) -> None:
    (line,) = chain(shop, "sales", DAY)
    assert "though all that it needs is there: no run was ever to build it" in line
    assert line.endswith(
        f"headwater plan shop/sales --unhealthy --partitions {DAY} -o plan.json, then headwater recover plan.json"
    )


def test_a_verified_pair_whose_input_is_lost_since_says_that_it_could_not_be_built_again(built: Shop) -> None:
    built.file("evens", DAY).unlink()
    lines = chain(built, "sums", DAY)
    assert lines[0].endswith("It could not be built again now, because it needs")
    assert f"evens@{DAY} is lost" in lines[1]


def test_an_outdated_pair_leads_to_the_input_that_holds_something_else_now(built: Shop) -> None:
    built.sales[DAY].append(8)
    run = built.build("sales", first=DAY)
    lines = chain(built, "evens", DAY)
    assert [line.partition(" ")[0] for line in lines] == [f"evens@{DAY}", f"sales@{DAY}"]
    assert lines[0].endswith("an input has changed since it was built: it was built from an older")
    assert f"built by run {run.run_id}" in lines[1]
    assert lines[1].endswith("with other content than before")


def test_a_chain_goes_on_to_what_the_changed_input_was_built_from(built: Shop) -> None:
    built.sales[DAY].append(8)
    assert built.build("sales", first=DAY).success
    assert built.build("evens", first=DAY).success
    found = [line.partition(" ")[0] for line in chain(built, "sums", DAY)]
    assert found == [f"sums@{DAY}", f"evens@{DAY}", f"sales@{DAY}"]


def test_a_pair_whose_code_changed_blames_no_input(built: Shop) -> None:
    built.code["sums"] = "v2"
    (line,) = chain(built, "sums", DAY)
    assert "is outdated: its code has changed since it was built. Its receipt: built by run" in line


def test_a_failed_pair_is_named_with_its_message(built: Shop) -> None:
    built.sql["evens"] = "select nothing from nowhere where partition_key in {keys}"
    run = built.build("evens", first=DAY)
    (line,) = chain(built, "evens", DAY)
    assert line.startswith(f"evens@{DAY} is failed: run {run.run_id} failed: ")


@pytest.mark.parametrize("name", ["summary", "weeks"])
def test_pairs_of_other_calendars_and_locations_are_followed_too(built: Shop, name: str) -> None:
    built.sales[DAY].append(8)
    for step, first in (("sales", DAY), ("evens", DAY), ("sums", DAY)):
        assert built.build(step, first=first).success
    partition = "" if name == "summary" else WEEKS[0]
    found = [line.partition(" ")[0] for line in chain(built, name, partition)]
    assert found[-1].startswith(f"sales@{DAY}")


def test_an_outdated_pair_whose_input_has_lost_its_receipt_names_that_input(built: Shop) -> None:
    built.ledger.forget("shop/evens", [DAY])
    found = [line.partition(" ")[0] for line in chain(built, "sums", DAY)]
    assert found == [f"sums@{DAY}", f"evens@{DAY}"]
