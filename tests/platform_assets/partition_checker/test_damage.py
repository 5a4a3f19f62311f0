"""Whatever happens to a file of the lake: the deep check names pair and file, and a rebuild heals it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platform_assets.partition_checker.deep import read_again
from platform_assets.partition_checker.states import PairState, State
from platform_assets.plans.roots import PairStates, unhealthy
from tests.platform_assets.partition_checker.shop import DAYS, Shop

DAY = DAYS[3]
NAME = "evens"


def deep(shop: Shop) -> dict[str, PairState]:
    """The pairs of an asset that the deep check does not call verified."""
    inspector = replace(shop.inspector(), trusts_damages=False)
    node = inspector.graph.named[f"shop/{NAME}"]
    pairs = read_again(inspector, node, inspector.judged({node.name: None})[node.name].pairs(), lambda _: None)
    return {pair.partition: pair for pair in pairs if pair.state is not State.VERIFIED}


def planned(shop: Shop) -> set[str]:
    """The pairs of the asset that a plan for everything unhealthy begins with."""
    found = unhealthy(PairStates.now(shop.inspector()), {f"shop/{NAME}": shop.node_pairs(NAME)})
    return set(found.get(f"shop/{NAME}", {}))


def heals(shop: Shop) -> None:
    """What the deep check has found is planned, and built again it has the checksum that it had."""
    before = shop.receipts(NAME)[DAY]
    file = shop.file(NAME, DAY)
    assert set(deep(shop)) == {DAY}
    (pair,) = deep(shop).values()
    assert pair.state in (State.SHORT, State.LOST)
    assert str(file) in pair.reason
    assert shop.pair(NAME, DAY).state is pair.state
    assert planned(shop) == {DAY}
    assert shop.build(NAME, first=DAY).success
    assert deep(shop) == {}
    assert planned(shop) == set()
    assert shop.receipts(NAME)[DAY].checksum == before.checksum


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * (path.stat().st_size // 2) + b"x" * (path.stat().st_size % 2))


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _folder_is_a_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "garbage": _garbage,
    "a directory": _directory,
    "gone": lambda path: path.unlink(),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to(path.with_name("nothing"))),
    "another pair's": lambda path: shutil.copy(next(path.parents[1].glob(f"*{DAYS[4]}/*.parquet")), path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_found_and_healed(built: Shop, damage: Callable[[Path], object]) -> None:
    damage(built.file(NAME, DAY))
    heals(built)


@pytest.mark.parametrize("at", [0, 4, 20, -1, -5, -8, -40, -120])
def test_a_flipped_byte_is_found_and_healed(built: Shop, at: int) -> None:
    path = built.file(NAME, DAY)
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    assert built.wrong() == {}, "nothing but reading can tell"
    heals(built)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_bytes_are_named_with_pair_and_file(built: Shop, data: st.DataObject) -> None:
    path = built.file(NAME, DAY)
    sound = path.read_bytes()
    at = data.draw(st.integers(0, len(sound) - 1))
    put = data.draw(st.binary(min_size=1, max_size=32))[: len(sound) - at]
    changed = sound[:at] + put + sound[at + len(put) :]
    try:
        path.write_bytes(changed)
        found = deep(built)
        if changed == sound:
            assert found == {}
        else:
            assert {key: pair.state for key, pair in found.items()} == {DAY: State.SHORT}
            assert str(path) in found[DAY].reason
            assert built.pair(NAME, DAY).state is State.SHORT
    finally:
        path.write_bytes(sound)
    assert deep(built) == {}, "a file that was put back is sound again"
    assert built.wrong() == {}


def test_a_file_without_a_digest_is_judged_by_its_rows(built: Shop) -> None:
    receipts = built.receipts(NAME)
    built.ledger.record([replace(receipts[DAY], digests=())])
    assert deep(built) == {}
    path = built.file(NAME, DAY)
    content = bytearray(path.read_bytes())
    content[-8:] = bytes(8)
    path.write_bytes(content)
    heals(built)


def test_a_pair_whose_damage_nobody_knew_can_be_replaced(built: Shop) -> None:
    path = built.file(NAME, DAY)
    content = bytearray(path.read_bytes())
    content[-32:] = bytes(32)
    path.write_bytes(content)
    assert built.build(NAME, first=DAY).success
    assert deep(built) == {}


def test_what_cannot_be_read_is_known_after_a_step_has_failed(built: Shop) -> None:
    path = built.file(NAME, DAY)
    content = bytearray(path.read_bytes())
    content[-32:] = bytes(32)
    path.write_bytes(content)
    query, built.sql[NAME] = built.sql[NAME], "select error('as dbt, which reads what it replaces')"
    assert not built.build(NAME, first=DAY).success
    assert built.pair(NAME, DAY).state is State.SHORT
    assert str(path) in built.pair(NAME, DAY).reason
    built.sql[NAME] = query
    assert built.build(NAME, first=DAY).success
    assert built.wrong() == {}
