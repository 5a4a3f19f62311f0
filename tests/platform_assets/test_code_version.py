"""Versions of Python code: the same for the same computation, another one for anything that may change it."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest

from platform_assets import code_version as code_versions
from platform_assets.code_version import (
    FOLLOWED,
    UnversionedCode,
    _defined,
    _Walk,
    code_version,
    former_versions,
)
from platform_assets.plans.planning import PlannedAsset
from resources.environment import REPOSITORY
from resources.warehouse import PARTITION_KEY, Warehouse

PRICES = '''
"""Prices."""

from dataclasses import dataclass

import math
from {package} import rounding
from {package}.settings import FACTORS, LIMIT as most
from resources.warehouse import PARTITION_KEY, Warehouse

UNUSED = 1
STEP = 2


@dataclass(frozen=True)
class Price:
    """A price."""

    name: str
    usd: float = 1.0

    def doubled(self) -> float:
        return double(self.usd)


def double(value: float) -> float:
    """Twice the value."""
    # twice
    return STEP * value


def unused() -> int:
    return 3


def total(prices: list[Price], label: str = "all") -> float:
    """The sum of prices."""
    def cut(value: float) -> float:
        return min(value, most)

    found = [cut(price.doubled()) * FACTORS.get(price.name, 1) for price in prices]
    return rounding.rounded(math.fsum(found)) if PARTITION_KEY else 0.0


class Till:
    limit = 3

    def __init__(self, lake: Warehouse) -> None:
        self.lake = lake

    def count(self) -> int:
        return self._counted(self.limit)

    def _counted(self, most: int) -> int:
        return most + STEP

    def other(self) -> int:
        return 7
'''
ROUNDING = """
def rounded(value: float) -> float:
    from {package}.digits import DIGITS
    return round(value, DIGITS)
"""
SETTINGS = 'FACTORS = {{"milk": 1, "bread": 2}}\nLIMIT = 10\nOTHER = 5\n'
FILES = {"prices": PRICES, "rounding": ROUNDING, "settings": SETTINGS, "digits": "DIGITS = 2\n"}

Edits = dict[str, tuple[str, str, str]]
_numbers = count()


class Shop:
    """Packages of the same modules, each with its own edits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def version(self, *edits: tuple[str, str, str], of: str = "total", files: dict[str, str] | None = None) -> str:
        package = f"shop_{next(_numbers)}"
        (self.folder / package).mkdir()
        (self.folder / package / "__init__.py").touch()
        texts = dict(files or FILES)
        for module, old, new in edits:
            assert old in texts[module], old
            texts[module] = texts[module].replace(old, new)
        for name, text in texts.items():
            (self.folder / package / f"{name}.py").write_text(text.format(package=package))
        importlib.invalidate_caches()
        found = importlib.import_module(f"{package}.prices")
        for part in of.split("."):
            found = getattr(found, part)
        return code_version(found)  # type: ignore[arg-type]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Shop(tmp_path)


SAME: Edits = {
    "another docstring": ("prices", '"""The sum of prices."""', '"""All of it."""'),
    "no docstring": ("prices", '    """Twice the value."""\n', ""),
    "a comment": ("prices", "# twice", "# two times"),
    "layout": ("prices", "STEP * value", "(\n        STEP\n        * value\n    )"),
    "annotations": ("prices", "def double(value: float) -> float", "def double(value)"),
    "a variable's annotation": ("prices", "    found = [", "    found: list[float] = ["),
    "a constant's annotation": ("prices", "STEP = 2", "STEP: int = 2"),
    "another way to write a number": ("settings", "LIMIT = 10", "LIMIT = 0xA"),
    "what nothing refers to": ("prices", "return 3", "return 4"),
    "a constant that nothing refers to": ("settings", "OTHER = 5", "OTHER = 6"),
    "a function is renamed": ("prices", "double(", "twice("),
    "a constant is renamed": ("prices", "STEP", "PACE"),
    "an import is renamed": ("prices", "most", "highest"),
    "another way to import": ("prices", "import math\n", "from math import fsum as add\nmath = 1\n"),
    "another container of the same class": ("prices", "prices: list[Price]", 'prices: "tuple[Price, ...]"'),
    "the order of definitions": ("prices", "UNUSED = 1\nSTEP = 2", "STEP = 2\nUNUSED = 1"),
    "a class that nothing refers to": ("prices", "return 7", "return 8"),
}


@pytest.mark.parametrize("edit", SAME)
def test_an_edit_that_changes_no_result_keeps_the_version(shop: Shop, edit: str) -> None:
    edits = [SAME[edit]]
    if edit == "another way to import":
        edits.append(("prices", "math.fsum", "add"))
    assert shop.version(*edits) == shop.version()


DIFFERENT: Edits = {
    "its own body": ("prices", "else 0.0", "else 1.0"),
    "a default": ("prices", 'label: str = "all"', 'label: str = "some"'),
    "the order of operands": ("prices", "STEP * value", "value * STEP"),
    "an inner function": ("prices", "min(value, most)", "max(value, most)"),
    "a method of a parameter's class": ("prices", "return double(self.usd)", "return self.usd"),
    "a constant": ("prices", "STEP = 2", "STEP = 3"),
    "the type of a constant": ("prices", "STEP = 2", "STEP = 2.0"),
    "an imported constant": ("settings", "LIMIT = 10", "LIMIT = 11"),
    "one value of an imported mapping": ("settings", '"bread": 2', '"bread": 3'),
    "a constant that is made twice": ("settings", "OTHER = 5", "LIMIT = 12"),
    "a function of an imported module": ("rounding", "round(value, DIGITS)", "round(value)"),
    "a constant that is imported inside a function": ("digits", "DIGITS = 2", "DIGITS = 3"),
    "what is used of another package": ("prices", "math.fsum", "sum"),
    "a literal of resources": ("prices", "PARTITION_KEY else", "Warehouse else"),
}


@pytest.mark.parametrize("edit", DIFFERENT)
def test_an_edit_that_may_change_a_result_changes_the_version(shop: Shop, edit: str) -> None:
    assert shop.version(DIFFERENT[edit]) != shop.version()


def test_every_edit_has_a_version_of_its_own(shop: Shop) -> None:
    found = [shop.version(edit) for edit in DIFFERENT.values()]
    assert len(set(found)) == len(found)


def test_a_function_may_move_to_another_module(shop: Shop) -> None:
    moved = {
        **FILES,
        "prices": PRICES.replace("from {package} import rounding", "from {package} import exact"),
        "exact": FILES["rounding"].replace("DIGITS", "PLACES"),
        "digits": "PLACES = 2\n",
    }
    moved["prices"] = moved["prices"].replace("rounding.rounded", "exact.rounded")
    assert shop.version(files=moved) == shop.version()


def test_two_functions_that_change_places_change_the_version(shop: Shop) -> None:
    files = {"prices": "def a():\n    return 1\n\ndef b():\n    return 2\n\ndef total():\n    return a() - b()\n"}
    assert shop.version(files=files) != shop.version(("prices", "a() - b()", "b() - a()"), files=files)
    swapped = (
        "prices",
        "def a():\n    return 1\n\ndef b():\n    return 2",
        "def a():\n    return 2\n\ndef b():\n    return 1",
    )
    assert shop.version(files=files) != shop.version(swapped, files=files)


def test_names_that_are_bound_inside_are_not_those_outside(shop: Shop) -> None:
    for body in (
        "def total(most): return most",
        "def total(): return [most for most in range(3)]",
        "def total():\n    most = 3\n    return most",
        "def total():\n    for most in ():\n        return most",
        "def total():\n    with open('x') as most:\n        return most",
        "def total():\n    try:\n        pass\n    except ValueError as most:\n        return most",
        "def total(x):\n    match x:\n        case [most, *_]:\n            return most",
        "total = lambda: None\ndef total(): return (lambda most: most)(1)",
    ):
        files = {**FILES, "prices": f"from {{package}}.settings import LIMIT as most\n\n{body}\n"}
        assert shop.version(files=files) == shop.version(("settings", "LIMIT = 10", "LIMIT = 11"), files=files), body
    for body in (
        "def total(limit=most): return limit",
        "def total():\n    global most\n    return most",
        "def total(): return [x for x in range(most)]",
        "def total():\n    class Inner:\n        limit = most\n    return Inner",
        "def total():\n    def inner(): return most\n    return inner",
    ):
        files = {**FILES, "prices": f"from {{package}}.settings import LIMIT as most\n\n{body}\n"}
        assert shop.version(files=files) != shop.version(("settings", "LIMIT = 10", "LIMIT = 11"), files=files), body


def test_a_method_counts_with_what_it_reaches_through_self(shop: Shop) -> None:
    before = shop.version(of="Till.count")
    assert shop.version(("prices", "return 7", "return 8"), of="Till.count") == before
    assert shop.version(("prices", "most + STEP", "most - STEP"), of="Till.count") != before
    assert shop.version(("prices", "limit = 3", "limit = 4"), of="Till.count") != before
    assert shop.version(("prices", "STEP = 2", "STEP = 3"), of="Till.count") != before


def test_a_class_counts_as_a_whole(shop: Shop) -> None:
    before = shop.version(of="Till")
    assert shop.version(("prices", "return 7", "return 8"), of="Till") != before
    assert shop.version(("prices", "STEP = 2", "STEP = 3"), of="Till") != before
    assert shop.version(("prices", "usd: float = 1.0", "usd: float = 2.0"), of="Price") != shop.version(of="Price")
    assert shop.version(("prices", "    name: str\n", ""), of="Price") != shop.version(of="Price")
    assert shop.version(("prices", "frozen=True", "frozen=False"), of="Price") != shop.version(of="Price")


def test_what_was_told_before_is_told_anew_when_a_module_that_it_reaches_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "stand"
    package.mkdir()
    sources = {
        "__init__": "",
        "tills": "from stand import prices\n\ndef taken(n):\n    return prices.price(n)\n\ndef free():\n    return 0\n",
        "prices": "from stand.rates import RATE\n\ndef price(n):\n    return n * RATE\n",
        "rates": "RATE = 2\n",
    }
    moment = count(1_600_000_000)

    def write(name: str, text: str) -> None:
        path = package / f"{name}.py"
        path.write_text(text)
        # A change within the clock's resolution is not what this is about.
        os.utime(path, (now := next(moment), now))

    for name, text in sources.items():
        write(name, text)
    tills = importlib.import_module("stand.tills")
    first, free = code_version(tills.taken), code_version(tills.free)
    for name, edited in [("rates", "RATE = 3\n"), ("prices", sources["prices"].replace("*", "+"))]:
        write(name, edited)
        assert code_version(tills.taken) != first
        assert code_version(tills.free) == free
        write(name, sources[name])
        assert code_version(tills.taken) == first
    # Nothing stands where a function stood.
    write("rates", "OTHER = 2\n")
    assert code_version(tills.taken) != first


def test_recursion_ends(shop: Shop) -> None:
    files = {
        "prices": "def even(n):\n    return n == 0 or odd(n - 1)\n\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    }
    assert shop.version(of="even", files=files) != shop.version(of="odd", files=files)
    assert shop.version(of="even", files=files) != shop.version(("prices", "n != 0", "n > 0"), of="even", files=files)


def _stored() -> object:
    return PARTITION_KEY, Warehouse, Warehouse.of


def test_code_of_resources_is_not_followed_but_its_literals_are() -> None:
    walk = _Walk(FOLLOWED | {"tests"})
    walk.forms([_defined(__name__, "_stored")])
    assert list(walk._numbers) == [(__name__, "_stored"), ("resources.warehouse", "PARTITION_KEY")]


def _checked(one: "Setting", other: PlannedAsset) -> object:
    return one.name, other.key


def test_classes_of_parameters_are_followed_unless_they_are_the_platforms() -> None:
    walk = _Walk(FOLLOWED | {"tests"})
    walk.forms([_defined(__name__, "_checked")])
    assert {name for _, name in walk._numbers} == {"_checked", "Setting"}


BASKETS = """
from {package}{place} import Basket

def total(basket: Basket) -> float:
    return basket.sum() if basket else 0.0
"""
BASKET = "class Basket:\n    def sum(self) -> float:\n        return 1.0\n"


class Places:
    """A function and the class of its parameter, in one folder or in two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, place: str, basket: str = BASKET, message: str = "") -> ModuleType:
        package = f"places_{next(_numbers)}"
        file = (self.folder / package).joinpath(*place.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True)
        file.write_text(basket)
        text = BASKETS.format(package=package, place=place) + (
            f"\ndef told():\n    return {message!r}\n" if message else ""
        )
        (self.folder / package / "baskets.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(f"{package}.baskets")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Places(tmp_path)


def test_the_class_of_a_parameter_counts_wherever_it_is(places: Places) -> None:
    beside, elsewhere = places.module(".kinds").total, places.module(".data.kinds").total
    assert code_version(beside) == code_version(elsewhere)
    other = places.module(".data.kinds", BASKET.replace("1.0", "2.0")).total
    assert code_version(other) != code_version(elsewhere)


def test_code_that_moved_is_still_known_by_what_it_was_called_before(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, elsewhere, moved = (places.module(place).total for place in (".kinds", ".data.kinds", ".data.kinds"))
    package = moved.__module__.removesuffix(".baskets")
    monkeypatch.setitem(code_versions._MOVED_FROM, f"{package}.data.kinds", package)
    # Versions of the same code are the same; constants tell these apart.
    versions = [code_version(total, constants={"at": at}) for at, total in enumerate((beside, elsewhere, moved))]
    assert former_versions(versions[0]) == former_versions(versions[2]) == []
    # The class of another folder did not count.
    assert former_versions(versions[1]) == [code_version(_without_class, constants={"at": 1})]


def _without_class(basket: object) -> float:
    return basket.sum() if basket else 0.0  # type: ignore[attr-defined]


def test_a_message_that_names_a_moved_file_is_known_by_the_former_name(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(code_versions._NAMED_AS, "new/place.py", "old/place.py")
    then = places.module(".kinds", message="see old/place.py").told
    now = places.module(".kinds", message="see new/place.py").told
    assert code_version(now) != code_version(then)
    assert former_versions(code_version(now)) == [code_version(then)]


def test_functions_count_together_and_in_their_order() -> None:
    assert code_version(_one) != code_version(_one, _two) != code_version(_two, _one)
    assert code_version(_one) == code_version(_one)
    assert code_version(_cached) == code_version(_cached.__wrapped__)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 2), (1, 1.0), (True, 1), (None, "None"), ("a", b"a"), ((1, 2), [1, 2]), ({"a": 1}, {"a": 2})],
)
def test_constants_count_by_value_and_type(one: object, other: object) -> None:
    assert code_version(constants={"x": one}) != code_version(constants={"x": other})
    assert code_version(constants={"x": one}) != code_version(constants={"y": one})
    assert code_version(constants={"x": one}) != code_version()


@dataclass(frozen=True)
class Setting:
    name: str
    values: tuple[int, ...] = ()


@dataclass
class Loose:
    name: str


class Size(Enum):
    SMALL = 1
    BIG = 2


def test_the_order_of_sets_and_mappings_does_not_count() -> None:
    assert code_version(constants={"a": {"x": 1, "y": 2}, "b": 1}) == code_version(
        constants={"b": 1, "a": {"y": 2, "x": 1}}
    )
    assert code_version(constants={"a": frozenset({"x", "y"})}) == code_version(constants={"a": {"y", "x"}})
    assert code_version(constants={"a": [1, 2]}) != code_version(constants={"a": [2, 1]})


def test_frozen_dataclasses_and_enums_are_plain_data() -> None:
    assert code_version(constants={"a": Setting("x", (1,))}) == code_version(constants={"a": Setting("x", (1,))})
    assert code_version(constants={"a": Setting("x", (1,))}) != code_version(constants={"a": Setting("x", (2,))})
    assert code_version(constants={"a": Size.SMALL}) != code_version(constants={"a": Size.BIG})


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "constant x is a object"),
        ({"a": [Loose("b")]}, r"x\['a'\]\[0\] is a Loose"),
        (_ := ast, "is a module"),
    ],
)
def test_a_constant_without_a_value_of_its_own_is_refused(value: object, named: str) -> None:
    with pytest.raises(UnversionedCode, match=named):
        code_version(constants={"x": value})


def _one() -> int:
    return 1


def _two() -> int:
    return 2


@cache
def _cached() -> int:
    return 1


def _maker() -> Callable[[], int]:
    def made() -> int:
        return 1

    return made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (len, "builtin_function_or_method"),
        (partial(_one), "partial"),
        (_maker(), "is made inside a function"),
        (lambda: 1, "is made inside a function"),
        (3, "int"),
    ],
)
def test_what_has_no_source_of_its_own_is_refused(given: object, said: str) -> None:
    with pytest.raises(UnversionedCode, match=said):
        code_version(given)  # type: ignore[arg-type]


def test_the_version_is_the_same_in_every_process_whatever_was_imported_before() -> None:
    code = (
        "from ml_assets.pricing import features; from platform_assets.code_version import code_version;"
        "print(code_version(features.features))"
    )
    heavy = f"import ml_assets.sdk.folds, ml_assets.pricing.project; {code}"
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text],
            env={"PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, text in [("1", code), ("2", code), ("3", heavy)]
    }
    assert len(found) == 1
