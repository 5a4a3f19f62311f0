"""The version of Python code: changes when what a function computes may have changed.

Belongs here: digests of functions, of what they refer to and of plain constants. Not here: the versions of dbt models
(`dbt_models/queries.py`), what is done about a pair whose code has another version (`partition_checker/`).

The source is read, never the objects: a version is the same on every machine, in every Python, in whichever order
modules are imported, and whatever was patched since. So a module constant counts by the expression that makes it.
"""

import ast
import inspect
import itertools
import json
import re
import secrets
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

FOLLOWED = frozenset({"ml_assets", "platform_assets"})
"""Top-level packages whose code is followed. The package of a given function is followed too."""
CONSTANTS_OF = frozenset({"resources"})
"""Top-level packages of which only literal constants are followed: where data is kept decides nothing about it."""
_MACHINERY = "platform_assets"
"""The package whose classes are what a function is handed to work with, and not its data."""

Form: TypeAlias = Any
"""Nested lists and plain values."""


class UnversionedCode(ValueError):
    """Code that no version can be told of; the message names it and says what to do."""


def code_version(*functions: Callable[..., object], constants: Mapping[str, object] = {}) -> str:
    """The version of `functions` and of all that they refer to.

    It covers every function, class and module constant of our own packages that a function refers to by a global name
    or as `module.name`, directly or through others; the classes that its parameters are annotated with, unless they are
    the platform's; and of a given method what it reaches as `self.name`. It changes with their syntax trees, not with
    comments, docstrings, layout or other annotations, nor when something is renamed or moved. Other packages count by
    the names that are used of them, not by their releases. What a string names (`getattr`), methods of values of which
    no class is named, what a base class defines for `self`, and changes of a module constant after its assignment are
    not seen.

    Args:
        functions: functions, methods or classes defined at the top of a module; Dagster's objects are not.
        constants: further plain data by name: str, numbers, bool, None, bytes, enum members, and tuples, lists, sets,
            mappings and frozen dataclasses of these.

    Raises:
        UnversionedCode: something given is neither, or its source is not there.
    """
    given = [_located(function) for function in functions]
    definitions = [_defined(module, name) for module, name in given]
    followed = FOLLOWED | {_top(module) for module, _ in given}
    plain = _text([[name, _plain(name, constants[name])] for name in sorted(constants)])
    walk = _Walk(followed)
    version = _digest(walk.forms(definitions), plain)
    if walk.was_other:
        _FORMER.setdefault(version, set()).add(_digest(_Walk(followed, by_folder=True).forms(definitions), plain))
    return version


def former_versions(version: str) -> Sequence[str]:
    """What the same code was called before classes of parameters counted wherever they are.

    Args:
        version: what `code_version` told in this process.
    """
    return sorted(_FORMER.get(version, ()))


_FORMER: dict[str, set[str]] = {}


def _digest(forms: str, plain: str) -> str:
    return blake2b(f"[{forms},{plain}]".encode(), digest_size=16).hexdigest()


def _text(form: Form) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"))


def _located(function: object) -> tuple[str, str]:
    """The module and the name in it of a function or class."""
    bare = inspect.unwrap(function) if callable(function) else function
    if not (inspect.isfunction(bare) or inspect.ismethod(bare) or inspect.isclass(bare)):
        raise UnversionedCode(
            f"{function!r} is a {type(function).__name__}; give the functions or classes that do the work"
        )
    name = bare.__qualname__
    if "<" in name:
        raise UnversionedCode(
            f"{bare.__module__}.{name} is made inside a function, so that what it computes depends on more than its "
            "source; move it to the top of its module, and give what differs as constants"
        )
    return bare.__module__, name


def _defined(module: str, name: str) -> "_Definition":
    found = _found(_module(module), name)
    if found is None:
        raise UnversionedCode(f"the source of {module} does not define {name}; give what does the work")
    return found


def _plain(where: str, value: object) -> Form:
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() if not isinstance(value, Enum):
            return [type(value).__name__, repr(value)]
        case Enum():
            return [type(value).__name__, value.name]
        case tuple() | list():
            return [type(value).__name__, [_plain(f"{where}[{at}]", item) for at, item in enumerate(value)]]
        case frozenset() | set():
            return ["set", sorted((_plain(where, item) for item in value), key=json.dumps)]
        case Mapping():
            items = [[_plain(where, key), _plain(f"{where}[{key!r}]", item)] for key, item in value.items()]
            return ["mapping", sorted(items, key=json.dumps)]
    if is_dataclass(value) and not isinstance(value, type) and value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return [
            type(value).__name__,
            [[f.name, _plain(f"{where}.{f.name}", getattr(value, f.name))] for f in fields(value)],
        ]
    raise UnversionedCode(
        f"constant {where} is a {type(value).__name__}, which has no value of its own; give plain data: str, numbers, "
        "bool, None, and tuples, lists, sets, mappings and frozen dataclasses of these"
    )


@dataclass(frozen=True)
class _Import:
    """A name that stands for a module, or for something in one."""

    module: str
    name: str | None = None


Bindings: TypeAlias = Mapping[str, Sequence[ast.stmt]]
"""The statements of a body that bind each name."""


@dataclass(frozen=True, eq=False)
class _Module:
    name: str
    bindings: Bindings
    imports: Mapping[str, _Import]


@dataclass(frozen=True, eq=False)
class _Definition:
    """What a top-level name of a module, or `Class.name`, is bound to."""

    module: _Module
    name: str
    statements: Sequence[ast.stmt]


_Reference: TypeAlias = "_Definition | _Import | str | None"
"""Something of ours; a module of ours; the dotted name of anything else; or nothing known: a builtin."""


@dataclass(frozen=True)
class _Names:
    """What a name means where it is read.

    `bound` are local variables, `here` those of a class body, which its methods do not see; `itself` is the name of
    `self` and the class that it is of, in a method that is followed by itself; every other name is global.
    """

    module: _Module
    bound: frozenset[str] = frozenset()
    here: frozenset[str] = frozenset()
    imports: Mapping[str, _Import] = field(default_factory=dict)
    method_of: str | None = None
    itself: tuple[str, str] | None = None
    in_class: bool = False


_Stamp: TypeAlias = tuple[str, int, int] | None
"""Where the source of a module is, when it was changed and how long it is; None where there is none."""


@dataclass(frozen=True)
class _Formed:
    """The text of a definition's form, wherever it is met: in it stand numbers, which every walk gives anew.

    `pieces` is the text between the numbers, `between` says of which of `refers` each is, and these are in the order of
    discovery. It holds as long as the modules that were looked at are as `seen`.
    """

    pieces: Sequence[str]
    between: Sequence[int]
    refers: Sequence[_Definition]
    seen: Mapping[str, _Stamp]
    was_other: bool
    """Whether other classes of its parameters counted when only those of the same folder did."""


_FORMED: dict[tuple[frozenset[str], bool, str, str], _Formed] = {}
"""By the packages that are followed, the rule for classes, module and name: most of an asset's code is others' too."""


class _Walk:
    """Finds what code refers to, numbers it in the order of discovery, and tells the form of each."""

    def __init__(self, followed: frozenset[str], by_folder: bool = False) -> None:
        """Follow the packages `followed`; `by_folder`: of classes of parameters, those of the same folder alone."""
        self._followed, self._by_folder = followed, by_folder
        self.was_other = False
        self._numbers: dict[tuple[str, str], int] = {}
        self._waiting: deque[_Definition] = deque()
        self._stamps: dict[str, _Stamp] = {}

    def forms(self, definitions: Iterable[_Definition]) -> str:
        """The given definitions' numbers, and the forms of these and of all that they refer to, by number; as text."""
        given, found = [self._number(definition) for definition in definitions], []
        while self._waiting:
            formed = self._formed(self._waiting.popleft())
            self.was_other |= formed.was_other
            numbers = [self._number(definition) for definition in formed.refers]
            texts = [str(numbers[at]) for at in formed.between]
            found.append("".join(itertools.chain(*itertools.zip_longest(formed.pieces, texts, fillvalue=""))))
        return f"[{_text(given)},[{','.join(found)}]]"

    def _number(self, definition: _Definition) -> int:
        key = definition.module.name, definition.name
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._waiting.append(definition)
        return self._numbers[key]

    def _formed(self, definition: _Definition) -> _Formed:
        key = self._followed, self._by_folder, definition.module.name, definition.name
        known = _FORMED.get(key)
        if known is None or any(self._stamp(module) != stamp for module, stamp in known.seen.items()):
            known = _FORMED[key] = _Forming(self._followed, self._by_folder, self._stamp).formed(definition)
        return known

    def _stamp(self, module: str) -> _Stamp:
        """Asked once in a walk."""
        if module not in self._stamps:
            self._stamps[module] = _stamp(module)
        return self._stamps[module]


_NUMBER = f"number {secrets.token_hex(16)} "
"""What stands for a number while a definition is formed: no code has it."""


class _Forming:
    """Tells the form of one definition, what it refers to, and which modules say so."""

    def __init__(self, followed: frozenset[str], by_folder: bool, stamp: Callable[[str], _Stamp]) -> None:
        self._followed, self._by_folder, self._stamp = followed, by_folder, stamp
        self._was_other = False
        self._refers: dict[tuple[str, str], tuple[int, _Definition]] = {}
        self._seen: dict[str, _Stamp] = {}

    def formed(self, definition: _Definition) -> _Formed:
        """What is known of `definition` from then on."""
        self._see(definition.module.name)
        text = _text(self._defined(definition))
        pieces = re.split(rf'"{_NUMBER}(\d+)"', text)
        refers = [found for _, found in self._refers.values()]
        return _Formed(pieces[::2], [int(at) for at in pieces[1::2]], refers, self._seen, self._was_other)

    def _number(self, definition: _Definition) -> str:
        key = definition.module.name, definition.name
        at, _ = self._refers.setdefault(key, (len(self._refers), definition))
        return f"{_NUMBER}{at}"

    def _see(self, module: str) -> _Stamp:
        return self._seen.setdefault(module, self._stamp(module))

    def _defined(self, definition: _Definition) -> Form:
        owner = definition.name.rpartition(".")[0]
        names = _Names(definition.module, method_of=owner or None)
        forms = []
        for statement in definition.statements:
            form = self._form(statement, names)
            # Others refer to it by its number, so that its name says nothing.
            forms.append([form[0], *form[2:]] if isinstance(statement, _NAMED) else form)
        return forms

    def _form(self, node: object, names: _Names) -> Form:
        match node:
            case ast.Name():
                return self._referred(node.id, [], names)
            case ast.Attribute():
                return self._attribute(node, names)
            case ast.Constant():
                return [type(node.value).__name__, self._literal(repr(node.value))]
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                return self._function(node, names)
            case ast.ClassDef():
                return self._class(node, names)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                targets = {name for loop in node.generators for name in _scope([loop.target])[0]}
                return self._node(node, replace(names, bound=names.bound | targets))
            case ast.AnnAssign() if not names.in_class:
                target, value = self._form(node.target, names), self._form(node.value, names)
                return ["Assign", {"targets": [target], "value": value}]
            case ast.AST():
                return self._node(node, names)
            case list():
                return [self._form(item, names) for item in node if not _says_nothing(item, names)]
        return node

    def _literal(self, text: str) -> str:
        former = text
        for now, then in _NAMED_AS.items():
            former = former.replace(now, then)
        self._was_other |= former != text
        return former if self._by_folder else text

    def _node(self, node: ast.AST, names: _Names) -> Form:
        formed = {name: self._form(value, names) for name, value in ast.iter_fields(node) if name not in _IGNORED}
        return [type(node).__name__, {name: form for name, form in formed.items() if form is not None and form != []}]

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, names: _Names) -> Form:
        given, decorators = node.args, getattr(node, "decorator_list", [])
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
        parts: list[Sequence[ast.arg | None]] = [
            given.posonlyargs,
            given.args,
            given.kwonlyargs,
            [given.vararg],
            [given.kwarg],
        ]
        arguments = [[argument.arg for argument in part if argument] for part in parts]
        bound, imports = _scope(body)
        bound |= {argument for part in arguments for argument in part}
        inside = replace(
            names,
            bound=(names.bound - imports.keys()) | bound,
            here=frozenset(),
            imports={name: at for name, at in names.imports.items() if name not in bound} | imports,
            method_of=None,
            itself=None if names.itself and names.itself[0] in bound else names.itself,
            in_class=False,
        )
        first = next((name for part in arguments[:2] for name in part), None)
        if names.method_of and first and not any(_is_named(decorator, "staticmethod") for decorator in decorators):
            inside = replace(inside, itself=(first, names.method_of))
        form = [
            type(node).__name__,
            getattr(node, "name", ""),
            self._form(decorators, names),
            arguments,
            self._form([*given.defaults, *given.kw_defaults], names),
            self._form(body, inside),
        ]
        for argument in itertools.chain(*parts):
            self._follow_classes(argument.annotation if argument else None, names)
        return form

    def _class(self, node: ast.ClassDef, names: _Names) -> Form:
        bound, imports = _scope(node.body)
        inside = replace(
            names,
            here=names.here | bound,
            imports={**names.imports, **imports},
            method_of=None,
            in_class=True,
        )
        outer = [self._form(part, names) for part in (node.decorator_list, node.bases, node.keywords)]
        form = ["ClassDef", node.name, *outer, self._form(node.body, inside)]
        for statement in node.body:
            self._follow_classes(statement.annotation if isinstance(statement, ast.AnnAssign) else None, names)
        return form

    def _follow_classes(self, annotation: ast.expr | None, names: _Names) -> None:
        """Counts the classes of parameters and fields: their methods are called, though nothing else may name them."""
        waiting: list[ast.AST] = [annotation] if annotation else []
        while waiting:
            node = waiting.pop(0)
            match node:
                case ast.Constant(value=str(text)):
                    waiting.append(ast.parse(text, mode="eval"))
                case ast.Name() | ast.Attribute():
                    found = self._reference(node, names)
                    if isinstance(found, _Definition) and isinstance(found.statements[-1], ast.ClassDef):
                        is_data = _top(found.module.name) != _MACHINERY
                        was_data = _former_folder(found.module.name) == _former_folder(names.module.name)
                        self._was_other |= is_data != was_data
                        if was_data if self._by_folder else is_data:
                            self._number(found)
                case _:
                    waiting.extend(ast.iter_child_nodes(node))

    def _attribute(self, node: ast.Attribute, names: _Names) -> Form:
        name, chain, root = _dotted(node)
        return self._referred(name, chain, names) if name else ["Attribute", self._form(root, names), chain]

    def _referred(self, name: str, chain: list[str], names: _Names) -> Form:
        """The form of `name.chain[0].chain[1]`…"""
        if names.itself and name == names.itself[0] and chain:
            method = _found(names.module, f"{names.itself[1]}.{chain[0]}")
            if method is not None:
                return ["Self", self._number(method), chain[1:]]
        if name in names.bound or name in names.here:
            return ["Local", name, chain]
        reference, rest = self._resolved(name, chain, names)
        match reference:
            case _Definition():
                return ["Ours", self._number(reference), rest]
            case _Import():
                return ["Module", reference.module]
            case str():
                return ["Other", ".".join([reference, *rest])]
        return ["Other", ".".join([name, *chain])]

    def _reference(self, node: ast.expr, names: _Names) -> "_Reference":
        name, chain, _ = _dotted(node)
        return self._resolved(name, chain, names)[0] if name else None

    def _resolved(self, name: str, chain: list[str], names: _Names) -> "tuple[_Reference, list[str]]":
        """What a name that is not bound here refers to, and which attributes of it are meant."""
        if name in names.imports:
            reference = self._imported(names.imports[name])
        else:
            reference = self._member(names.module.name, name)
        while isinstance(reference, _Import) and chain:
            reference, chain = self._member(reference.module, chain[0]), chain[1:]
        return reference, chain

    def _imported(self, imported: _Import) -> _Reference:
        if imported.name is not None:
            return self._member(imported.module, imported.name) or f"{imported.module}.{imported.name}"
        return imported if self._is_ours(imported.module) else imported.module

    def _member(self, module: str, name: str) -> _Reference:
        """What `name` is in a module; None when its source does not say."""
        if not self._is_ours(module):
            return f"{module}.{name}"
        source = _module_at(module, self._see(module))
        if name in source.imports:
            return self._imported(source.imports[name])
        found = _found(source, name)
        if found is None:
            return _Import(f"{module}.{name}") if self._see(f"{module}.{name}") is not None else None
        followed = _top(module) in self._followed
        return found if followed or _is_literal(found) else f"{module}.{name}"

    def _is_ours(self, module: str) -> bool:
        return _top(module) in self._followed | CONSTANTS_OF


_IGNORED = frozenset({"ctx", "kind", "type_comment", "type_params", "annotation", "simple"})
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _says_nothing(item: object, names: _Names) -> bool:
    """Docstrings, `pass`, imports (what they import counts where it is used) and declarations of a variable's type."""
    match item:
        case ast.Pass() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.AnnAssign(value=None):
            return not names.in_class
    return False


def _top(module: str) -> str:
    return module.partition(".")[0]


def _dotted(node: ast.expr) -> tuple[str, list[str], ast.expr]:
    """The name and the attributes of `a.b.c`, and what it starts with, which has no name in `f().b.c`."""
    chain: list[str] = []
    while isinstance(node, ast.Attribute):
        chain.insert(0, node.attr)
        node = node.value
    return node.id if isinstance(node, ast.Name) else "", chain, node


def _is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


_MOVED_FROM: Mapping[str, str] = {
    "ml_assets.features.joins": "ml_assets.sdk",
    "ml_assets.features.source": "ml_assets.sdk",
    "ml_assets.features.types": "ml_assets.sdk",
    "ml_assets.features.view_features": "ml_assets.sdk",
    "ml_assets.features.views": "ml_assets.sdk",
    "ml_assets.pricing.feature_views": "ml_assets.features",
    "ml_assets.sdk.trainers.frameworks": "ml_assets.sdk",
    "ml_assets.sdk.trainers.lightgbm": "ml_assets.sdk",
    "ml_assets.sdk.trainers.sklearn": "ml_assets.sdk",
    "ml_assets.sdk.trainers.torch": "ml_assets.sdk",
    "ml_assets.sdk.trainers.trainer": "ml_assets.sdk",
}
"""The folders of modules while only classes of the same folder counted, where they are elsewhere now."""

_NAMED_AS: Mapping[str, str] = {"ml_assets/sdk/trainers/sklearn.py": "ml_assets/sdk/sklearn_trainer.py"}
"""What messages in the code of ML assets called files that were elsewhere then."""


def _former_folder(module: str) -> str:
    return _MOVED_FROM.get(module) or module.rpartition(".")[0]


def _is_literal(definition: _Definition) -> bool:
    for statement in definition.statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            return False
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            return False
    return True


def _scope(body: Sequence[ast.AST], package: str = "") -> tuple[frozenset[str], dict[str, _Import]]:
    """The names that a body binds, besides those that it imports, and these."""
    bound: set[str] = set()
    elsewhere: set[str] = set()
    imports: dict[str, _Import] = {}
    waiting = deque(body)
    while waiting:
        node = waiting.popleft()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound.add(node.name)
                continue
            case ast.Lambda():
                continue
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                bound.update(inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
                continue
            case ast.Name(ctx=ast.Store() | ast.Del()):
                bound.add(node.id)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
            case ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case ast.Global():
                elsewhere.update(node.names)
            case ast.Import():
                for alias in node.names:
                    imports[alias.asname or alias.name.split(".")[0]] = _Import(
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                origin = ".".join([*above, *([node.module] if node.module else [])])
                imports |= {alias.asname or alias.name: _Import(origin, alias.name) for alias in node.names}
        waiting.extend(ast.iter_child_nodes(node))
    return frozenset(bound - elsewhere - imports.keys()), imports


def _bindings(body: Sequence[ast.stmt]) -> Bindings:
    found: dict[str, list[ast.stmt]] = {}
    for statement in body:
        for name in _scope([statement])[0]:
            found.setdefault(name, []).append(statement)
    return found


def _found(module: _Module, name: str) -> _Definition | None:
    """The definition of a name of a module, or of `Class.name`."""
    bindings = module.bindings
    statements: Sequence[ast.stmt] = ()
    for part in name.split("."):
        statements = bindings.get(part, ())
        bindings = {}
        for statement in statements:
            if isinstance(statement, ast.ClassDef):
                bindings = _bindings(statement.body)
    return _Definition(module, name, statements) if statements else None


def _module(name: str) -> _Module:
    return _module_at(name, _stamp(name))


def _module_at(name: str, stamp: _Stamp) -> _Module:
    if stamp is None:
        raise UnversionedCode(f"the source of module {name} is not there; install it as source files")
    if stamp[1] == _FOLDER:
        return _Module(name, {}, {})
    return _read(name, stamp)


_FOLDER = -1
"""In the place of the time of a package's change that has no file."""


def _stamp(name: str) -> _Stamp:
    origin = _origin(name)
    if origin is None:
        return None
    found = origin.stat()
    return (str(origin), _FOLDER, 0) if stat.S_ISDIR(found.st_mode) else (str(origin), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=512)
def _read(name: str, stamp: tuple[str, int, int]) -> _Module:
    path = Path(stamp[0])
    body = ast.parse(path.read_text(encoding="utf-8")).body
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _Module(name, _bindings(body), _scope(body, package)[1])


def _origin(name: str) -> Path | None:
    """The source file of a module, or the folder of a package that has none; nothing is imported but packages."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        try:
            spec = find_spec(name)
        except (ModuleNotFoundError, ValueError):
            return None
        if spec is None:
            return None
        file = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)
    return Path(file) if file and Path(file).suffix in (".py", "") else None
