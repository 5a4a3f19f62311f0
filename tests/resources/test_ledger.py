"""Receipts: what makes two equal, and what the ledger keeps."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from resources.environment import Environment
from resources.ledger import Input, Ledger, LedgerError, Receipt, confirmed, contents_digest

RAW = Input("shop/raw_sales", "2017-01-01", "id-of-raw", "content-of-raw")
DAY = Receipt(
    asset="shop/product_days",
    partition="2017-01-01",
    code_version="v1",
    inputs=(RAW,),
    rows=3,
    checksum="3:ff",
    schema="s1",
    environment="prod",
    run_id="run-1",
    snapshot=7,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, environment: Environment) -> Ledger:
    if request.param == "sqlite":
        return Ledger.of(environment)
    return Ledger(uri=request.getfixturevalue("postgres"), environment="prod")


def test_equal_work_has_an_equal_id_whenever_and_wherever_it_was_done() -> None:
    again = replace(DAY, run_id="run-2", snapshot=9, recorded_at=0.0, environment="dev-a", reused=True)
    assert again.id == DAY.id
    assert again.content == DAY.content


@pytest.mark.parametrize(
    ("change", "same_content"),
    [
        ({"asset": "shop/other"}, True),
        ({"partition": "2017-01-02"}, True),
        ({"code_version": "v2"}, True),
        ({"inputs": (replace(RAW, id="another"),)}, True),
        ({"inputs": ()}, True),
        ({"rows": 4}, False),
        ({"checksum": "3:fe"}, False),
        ({"schema": "s2"}, False),
    ],
)
def test_an_id_says_everything_about_the_data_and_its_ancestry(change: dict[str, object], same_content: bool) -> None:
    changed = replace(DAY, **change)  # type: ignore[arg-type]
    assert changed.id != DAY.id
    assert (changed.content == DAY.content) is same_content


def test_the_order_of_inputs_does_not_count() -> None:
    other = Input("shop/raw_prices", "2017-01-01", "p", "q")
    assert replace(DAY, inputs=(RAW, other)).id == replace(DAY, inputs=(other, RAW)).id
    assert replace(DAY, inputs=(RAW, other)).inputs_content == replace(DAY, inputs=(other, RAW)).inputs_content
    assert DAY.inputs_content == contents_digest([("shop/raw_sales", "2017-01-01", "content-of-raw")])


def test_the_newest_receipt_of_a_pair_is_the_current_one_and_older_ones_stay(ledger: Ledger) -> None:
    rebuilt = replace(DAY, rows=4, run_id="run-2")
    other = replace(DAY, partition="2017-01-02")
    ledger.record([DAY, other])
    ledger.record([rebuilt])
    assert ledger.current("shop/product_days") == {"2017-01-01": rebuilt, "2017-01-02": other}
    assert ledger.current("shop/product_days", ["2017-01-02", "2017-01-03"]) == {"2017-01-02": other}
    assert ledger.history("shop/product_days", "2017-01-01") == [rebuilt, DAY]
    standing = ledger.standings()["shop/product_days"]["2017-01-01"]
    assert (standing.id, standing.rows, standing.inputs_content) == (rebuilt.id, 4, DAY.inputs_content)
    assert ledger.standings(["shop/other"]) == {}


def test_a_receipt_that_was_confirmed_says_that_nothing_was_computed(ledger: Ledger) -> None:
    ledger.record([DAY])
    ledger.record([confirmed(DAY, "run-2")])
    current = ledger.current("shop/product_days")["2017-01-01"]
    assert (current.id, current.run_id, current.reused) == (DAY.id, "run-2", True)


def test_a_forgotten_pair_has_no_current_receipt_and_keeps_its_history(ledger: Ledger) -> None:
    ledger.record([DAY])
    ledger.forget("shop/product_days", ["2017-01-01"])
    assert ledger.current("shop/product_days") == {}
    assert ledger.history("shop/product_days", "2017-01-01") == [DAY]


def test_environments_share_a_database_and_no_receipts(ledger: Ledger) -> None:
    ledger.record([DAY])
    assert Ledger(uri=ledger.uri, environment="dev-a").standings() == {}


def test_writers_at_the_same_time_lose_nothing(ledger: Ledger) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            ledger.record([replace(DAY, partition=f"{writer}-{number}")])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(ledger.current("shop/product_days")) == 40


def test_many_pairs_are_recorded_together(ledger: Ledger) -> None:
    many = [replace(DAY, partition=f"{number:05}") for number in range(2000)]
    ledger.record(many)
    ledger.record(many)
    assert len(ledger.standings()["shop/product_days"]) == 2000


def test_a_ledger_that_cannot_be_read_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(LedgerError, match="ledger.sqlite"):
        Ledger(uri=f"sqlite:///{path}", environment="prod").standings()
