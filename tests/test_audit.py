"""What `audit` finds in classes, and what it leaves alone."""

import abc
import ast
import collections
import collections.abc
import dataclasses
import importlib
import importlib.util
import json
import pathlib
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypedDict

import diffrax as _dfx
import equinox as eqx
import flowjax.bijections as _fjb
import jax
import jax.numpy as jnp
import jaxtyping
import lineax as _lx
import numpy as np
import optimistix as _optx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Key, Num, PRNGKeyArray, PyTree, Shaped, UInt
from typing_extensions import TypeAliasType

import annotax as anx
from annotax import TargetError
from annotax._audit import audit
from annotax._errors import FindingError
from annotax._findings import CODES
from annotax._held import Held, held_types
from annotax._registry import registry
from annotax._scope import Scope
from strategies import ARRAY_ROLES, POOL, annotated_class, foreign_class, layers

ROOT = pathlib.Path(__file__).parent.parent

FILES = {
    "__init__": "",
    "__main__": "raise AssertionError('the program was run')",
    "broken": "import no_such_module_at_all",
    "plain": """
        import equinox as eqx
        from jax import Array

        class Foreign(eqx.Module):
            weight: Array
            scale: Array | None
            name: str

        class Unused(eqx.Module):
            size: int
    """,
    "roles": """
        import equinox as eqx
        import annotax as anx
        from jax import Array
        from jaxtyping import Float

        class Model(anx.Module):
            declared: anx.Param[Array]
            bare: Float[Array, " n"]
            many: dict[str, "Array"]
            either: Array | float
            static: anx.Hyper[float | Array]
            layer: anx.Hyper[eqx.nn.Linear]
            sizes: anx.Hyper[list[int]]
            table: anx.Hyper[tuple[dict[str, int], ...]]
            teacher: anx.Buffer[eqx.nn.MLP]
            fixed: Array = eqx.field(static=True)

            class Inner(anx.Module):
                scale: Array

        class Wrong(eqx.Module):
            weight: anx.Param[Array]

        class Inherited(Wrong):
            other: int
    """,
    "strings": """
        from __future__ import annotations
        from typing import TYPE_CHECKING, ClassVar
        import annotax as anx, equinox as eqx
        from jax import Array

        if TYPE_CHECKING:
            from annotax import Param
            from jaxtyping import Float
            from .plain import Foreign, Unused
            from .aliases import Weight
            import no_such_module_at_all as nsm
            import jax.numpy as late_jnp

        class Model(anx.Module):
            lost: Param[Array]
            late: Later
            alias: Weight
            unknown: nsm.Thing
            unchecked: anx.Param[Float[Array, "n"]]
            without: Float[Array, "n"]
            module: Foreign
            config: anx.Hyper[Unused]
            known: Iterable
            numpy: late_jnp.ndarray
            shared: ClassVar[nsm.Thing]

        class NoRoles(anx.Module):
            unknown: nsm.Thing

        class Static(eqx.Module):
            fixed: late_jnp.ndarray = eqx.field(static=True)

        Later = anx.Buffer[Array]
    """,
    "aliases": """
        import annotax as anx
        from jax import Array
        Weight = anx.Param[Array]
    """,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package with every kind of mistake."""
    root = tmp_path_factory.mktemp("audit")
    (root / "anx_sample").mkdir()
    for name, text in FILES.items():
        (root / "anx_sample" / f"{name}.py").write_text(textwrap.dedent(text))
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))
    for name in [name for name in sys.modules if name.startswith("anx_sample")]:
        del sys.modules[name]


def found(target, **options):
    return [(f.code, f.where) for f in audit(target, **options)]


REPORT = """\
anx_sample/plain.py:5: ANX007 Foreign: nobody says what its arrays are (weight, scale)
    fix: annotax.Module as its base, with roles; or annotax.register(Foreign, \
weight=annotax.Param, scale=annotax.Param), with annotax.Buffer for what is not trained
anx_sample/roles.py:9: ANX001 Model.bare: it holds arrays, and no role says whether \
they are trained
    fix: Param[...] around the type if they are, Buffer[...] if not
anx_sample/roles.py:10: ANX001 Model.many: it holds arrays, and no role says whether \
they are trained
    fix: Param[...] around the type if they are, Buffer[...] if not
anx_sample/roles.py:11: ANX001 Model.either: it holds arrays, and no role says whether \
they are trained
    fix: Param[...] around the type if they are, Buffer[...] if not
anx_sample/roles.py:12: ANX002 Model.static: a Hyper is static, and its type holds arrays
    fix: Buffer[...] for arrays that are not trained, Param[...] for those that are
anx_sample/roles.py:13: ANX002 Model.layer: a Hyper is static, and a Linear has arrays \
(weight)
    fix: Buffer[...] for arrays that are not trained, Param[...] for those that are
anx_sample/roles.py:14: ANX003 Model.sizes: a Hyper is compared and hashed, and a list \
has no hash
    fix: tuple[...]; field(converter=tuple) takes lists as well
anx_sample/roles.py:15: ANX003 Model.table: a Hyper is compared and hashed, and a dict \
has no hash
    fix: tuples all the way down, of pairs in place of a dict
anx_sample/roles.py:16: ANX006 Model.teacher: the Params of MLP (layers.weight, \
layers.bias) are not trained in a Buffer
    fix: nothing, if a copy that is not trained is meant (a teacher, a moving average); \
else drop Buffer
anx_sample/roles.py:17: ANX008 Model.fixed: it is compared and hashed as static data, \
and its type holds arrays
    fix: Buffer[...] without static=True
anx_sample/roles.py:20: ANX001 Inner.scale: it holds arrays, and no role says whether \
they are trained
    fix: Param[...] around the type if they are, Buffer[...] if not
anx_sample/roles.py:23: ANX009 Wrong.weight: a role in a class that annotax does not know
    fix: class Wrong(annotax.Module)
anx_sample/strings.py:16: ANX004 Model.lost: its role cannot be read: Param does not \
exist at run time
    fix: define the role before the class (not under TYPE_CHECKING), or write the twin: \
lost: ... = annotax.field(role=annotax.Param)
anx_sample/strings.py:17: ANX004 Model.late: its role could not be read when the class \
was made
    fix: define the role before the class (not under TYPE_CHECKING), or write the twin: \
late: ... = annotax.field(role=annotax.Buffer)
anx_sample/strings.py:18: ANX004 Model.alias: its role cannot be read: Weight does not \
exist at run time
    fix: define the role before the class (not under TYPE_CHECKING), or write the twin: \
alias: ... = annotax.field(role=annotax.Param)
anx_sample/strings.py:19: ANX004 Model.unknown: nsm.Thing does not exist at run time, \
and may be a role
    fix: define the role before the class (not under TYPE_CHECKING), or write the twin: \
unknown: ... = annotax.field(role=...)
anx_sample/strings.py:20: ANX005 Model.unchecked: its type cannot be checked: Float does \
not exist at run time
    fix: import or define Float, not under TYPE_CHECKING
anx_sample/strings.py:21: ANX001 Model.without: it holds arrays, and no role says \
whether they are trained
    fix: Param[...] around the type if they are, Buffer[...] if not
anx_sample/strings.py:25: ANX001 Model.numpy: it holds arrays, and no role says whether \
they are trained
    fix: Param[...] around the type if they are, Buffer[...] if not
anx_sample/strings.py:32: ANX008 Static.fixed: it is compared and hashed as static data, \
and its type holds arrays
    fix: drop static=True; jax.lax.stop_gradient if it is not trained
anx_sample.broken: skipped (optional): ModuleNotFoundError: No module named \
'no_such_module_at_all'
anx_sample: 19 warnings and 1 note in 9 classes; 1 module skipped (1 optional)"""


def test_every_kind_of_mistake(package, monkeypatch):
    monkeypatch.chdir(package)
    assert str(audit("anx_sample")) == REPORT
    assert {code.code for code in CODES} == set(re.findall(r"ANX\d{3}", REPORT))


def test_nothing_is_changed(package):
    version = registry.version
    first = audit("anx_sample")
    model = importlib.import_module("anx_sample.strings").Model
    assert len(registry.declarations[model].pending) == 11
    assert str(audit("anx_sample")) == str(first)
    assert registry.version == version
    assert model in registry.unsettled


def test_modules_names_classes_and_sequences(package):
    roles = importlib.import_module("anx_sample.roles")
    plain = importlib.import_module("anx_sample.plain")
    whole = audit("anx_sample.roles")
    assert whole.classes == 4
    assert str(audit(roles)) == str(whole)
    assert found(roles.Model.Inner) == [("ANX001", "Inner.scale")]
    assert found("anx_sample.roles.Model.Inner") == [("ANX001", "Inner.scale")]
    both = audit([plain, "anx_sample.roles"])
    assert both.target == "anx_sample.plain, anx_sample.roles"
    assert both.classes == 6
    assert "ANX007" not in {f.code for f in both}  # each target is judged by itself


def test_a_plain_package_hears_of_static_arrays_alone(package):
    assert found("anx_sample.plain") == []

    class Static(eqx.Module):
        weight: Array
        fixed: tuple[Array, ...] | None = eqx.field(static=True)
        layer: eqx.nn.Linear = eqx.field(static=True)
        size: int = eqx.field(static=True)

    static = audit(Static, ignore=("ANX007",))
    assert [(f.code, f.where) for f in static] == [
        ("ANX008", "Static.fixed"),
        ("ANX008", "Static.layer"),
    ]
    fix = "drop static=True; jax.lax.stop_gradient if it is not trained"
    assert {f.fix for f in static} == {fix}
    assert static.findings[1].problem == (
        "it is compared and hashed as static data, and a Linear has arrays (weight)"
    )


def test_a_foreign_class_that_is_named_is_reported(package):
    foreign = importlib.import_module("anx_sample.plain").Foreign
    assert found(foreign) == [("ANX007", "Foreign")]
    assert found(eqx.nn.Linear) == []  # registered

    class Registered(foreign):
        more: Array

    anx.register(Registered, weight=anx.Param)
    assert "ANX007" not in {f.code for f in audit(Registered) if f.where == "Registered"}


def test_foreign_classes_in_fields(package):
    foreign = importlib.import_module("anx_sample.plain").Foreign

    class Holder(anx.Module):
        many: list[foreign]
        spoken_for: anx.Buffer[foreign]
        known: eqx.nn.Linear | None

    (finding,) = audit(Holder)
    assert (finding.code, finding.where) == ("ANX007", "Holder.many")
    assert finding.problem == ("nobody says what the arrays of Foreign are (weight, scale)")
    assert finding.fix == (
        "annotax.register(Foreign, weight=annotax.Param, scale=annotax.Param), with "
        "annotax.Buffer for what is not trained"
    )


def test_foreign_bases(package):
    foreign = importlib.import_module("anx_sample.plain").Foreign

    class First(foreign, anx.Module):
        own: anx.Param[Array]

    class Second(First):
        pass

    module = types.ModuleType("made_of_foreign")
    vars(module).update(First=First, Second=Second)
    First.__module__ = Second.__module__ = module.__name__
    (finding,) = audit(module)
    assert (finding.code, finding.where) == ("ANX007", "First")
    assert finding.problem.startswith("nobody says what the arrays of Foreign are")


def test_a_class_is_looked_at_with_its_bases():
    class Base(anx.Module):
        inherited: Array

    class Derived(Base):
        own: anx.Param[Array]

    assert found(Derived) == [("ANX001", "Base.inherited")]
    assert audit(Derived).classes == 2
    frozen = type(anx.freeze(Derived(jnp.ones(1), jnp.ones(2)), anx.by_path("own")))
    assert frozen is not Derived
    assert found(frozen) == [("ANX001", "Base.inherited")]
    assert audit(frozen).classes == 2
    module = types.ModuleType(Derived.__module__)
    vars(module).update(Derived=Derived, frozen=frozen)
    assert audit(module).classes == 1


class Recursive(anx.Module):
    """A class whose fields may hold another of its kind."""

    child: "Recursive | None"
    weight: anx.Param[Array]


def test_no_false_alarms():
    T = "a string that is no annotation"  # noqa: F841

    class Clean(anx.Module):
        function: anx.Hyper[Callable[[Array], Array]]
        kind: anx.Hyper[type[Array]]
        choice: anx.Hyper[Literal["list", "Array"]]
        shape: anx.Hyper[jax.ShapeDtypeStruct]
        dtype: anx.Hyper[np.dtype[Any]]
        number: anx.Hyper[ArrayLike]
        maybe: anx.Hyper[Float[ArrayLike, ""] | None]
        anything: anx.Hyper[Any]
        tree: PyTree
        untyped: Any
        scale: ArrayLike
        sizes: anx.Hyper[list[int]] = anx.field(converter=tuple)
        either: anx.Hyper[eqx.nn.Linear | str]
        layer: eqx.nn.Linear
        layers: list[eqx.nn.Linear | Callable[[Array], Array]]
        count: int
        name: str = eqx.field(static=True)
        static_function: Callable[[Array], Array] = eqx.field(static=True)
        constant: anx.Buffer[Array | None]
        remark: "not an annotation, but a remark"
        twin: Array = anx.field(role=anx.Buffer)
        recursive: Recursive

    assert found(Clean) == []


def test_arrays_of_every_kind_want_a_role():
    class Arrays(anx.Module):
        key: PRNGKeyArray
        numpy: np.ndarray
        typed: np.ndarray[Any, np.dtype[np.float32]]
        tree: PyTree[Float[Array, "..."]]
        deep: list[dict[str, tuple[Array, ...]]]
        maybe: Array | None

    assert [where for code, where in found(Arrays) if code == "ANX001"] == [
        f"Arrays.{name}" for name in ("key", "numpy", "typed", "tree", "deep", "maybe")
    ]


@dataclasses.dataclass
class Settings:
    """Compared and not hashed, as `@dataclass` makes it."""

    size: int = 1


class Compared:
    """Compared and not hashed, as Python makes it."""

    def __eq__(self, other):
        return True


class Table(TypedDict):
    """A dict."""

    size: int


class Sized(Protocol):
    """Of what it stands for, some may have a hash."""

    def __eq__(self, other): ...


class Ordered(abc.ABC):
    """As a protocol."""

    @abc.abstractmethod
    def __eq__(self, other): ...


@dataclasses.dataclass(frozen=True)
class Frozen:
    """With a hash."""


def test_all_that_has_no_hash():
    class Model(anx.Module):
        plain: anx.Hyper[Settings]
        compared: anx.Hyper[Compared | None]
        table: anx.Hyper[Table]
        many: anx.Hyper[tuple[Settings, ...]]
        deque: anx.Hyper[collections.deque[int]]
        lists: anx.Hyper[tuple[list[int], ...]]
        twice: anx.Hyper[list[list[int]]]
        sets: anx.Hyper[tuple[set[int], ...]]
        buffers: anx.Hyper[tuple[bytearray, ...]]
        maybe: anx.Hyper[list[int] | None]
        one: anx.Hyper[set[int]]
        pairs: anx.Hyper[dict[str, int]]
        frozen: anx.Hyper[Frozen]
        mapping: anx.Hyper[collections.abc.Mapping[str, int]]
        protocol: anx.Hyper[Sized]
        abstract: anx.Hyper[Ordered]

    every = audit(Model).findings
    findings = [one for one in every if one.code == "ANX003"]
    assert [(one.code, one.problem) for one in every if one not in findings] == [
        (
            "ANX005",
            "its type cannot be checked: Sized is a Protocol, not @runtime_checkable",
        )
    ]
    told = {one.where.partition(".")[2]: one.fix for one in findings}
    assert told == {
        "plain": "@dataclass(frozen=True) on Settings",
        "compared": "a type whose values have a hash",
        "table": "a NamedTuple in place of the TypedDict Table",
        "many": "@dataclass(frozen=True) on Settings",
        "deque": "a type whose values have a hash",
        "lists": "tuples all the way down",
        "twice": "tuples all the way down",
        "sets": "tuples and frozensets all the way down",
        "buffers": "bytes",
        "maybe": "tuple[...]",
        "one": "frozenset[...]; field(converter=frozenset) takes sets as well",
        "pairs": "a tuple of pairs; field(converter=...) can make it from a dict",
    }
    assert findings[0].problem == (
        "a Hyper is compared and hashed, and a Settings has no hash"
    )


class Pattern(jaxtyping.AbstractDtype):
    """A dtype of somebody's own."""

    dtypes = re.compile("int.*")


def test_integers_booleans_and_keys_are_buffers():
    class Model(anx.Module):
        count: Int[Array, ""]
        unsigned: UInt[Array, ""]
        mask: Bool[Array, " n"]
        key: Key[Array, ""]
        keys: list[PRNGKeyArray]
        numpy: np.ndarray[Any, np.dtype[np.int32]]
        static: anx.Hyper[Int[Array, ""]]
        weight: Float[Array, ""]
        shaped: Shaped[Array, ""]
        number: Num[Array, ""]
        both: tuple[Float[Array, ""], Int[Array, ""]]
        real: np.ndarray[Any, np.dtype[np.float32]]
        pattern: Pattern[Array, ""]

    fixes = {one.where.partition(".")[2]: one.fix for one in audit(Model)}
    only = "Buffer[...]: integers, booleans and keys are not trained"
    exact = {"count", "unsigned", "mask", "key", "keys", "numpy", "static"}
    assert {name for name, fix in fixes.items() if fix == only} == exact
    either = "Param[...] around the type if they are, Buffer[...] if not"
    assert {name for name, fix in fixes.items() if fix == either} == {
        *("weight", "shaped", "number", "both", "real", "pattern")
    }


def test_registrations_that_are_good_advice():
    class Random(eqx.Module):
        key: PRNGKeyArray

    class Mixed(eqx.Module):
        key: PRNGKeyArray
        weight: Array
        count: Int[Array, ""]
        more: Array

    class Static(eqx.Module):
        mask: Bool[Array, " n"] = eqx.field(static=True)

    class Holder(anx.Module):
        random: Random
        mixed: Mixed

    random, mixed = audit(Holder).findings
    assert random.fix == "annotax.register(Random, key=annotax.Buffer)"
    assert mixed.fix == (
        "annotax.register(Mixed, key=annotax.Buffer, weight=annotax.Param, "
        "count=annotax.Buffer, ...), with annotax.Buffer for what is not trained"
    )
    assert [one.fix for one in audit(Static, ignore="ANX007")] == ["drop static=True"]


def test_roles_in_plain_classes_are_told_at_their_field():
    class Known(eqx.Module):
        first: anx.Param[Array]

    anx.register(Known)

    class Plain(Known):
        options: int = anx.field(tags=("a",), default=1)
        remark: "Param is no annotation" = 1
        twin: Array = anx.field(role=anx.Buffer, default=None)
        other: anx.Buffer[Array] = None

    class Below(Plain):
        pass

    module = types.ModuleType("plain_roles")
    for cls in (Plain, Below):
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
    (finding,) = audit(module)
    assert (finding.code, finding.where) == ("ANX009", "Plain.twin")
    assert finding.problem == "a role in a class that annotax does not know"
    assert finding.fix == "class Plain(annotax.Module)"


def test_a_lost_role_in_a_plain_class():
    class Plain(eqx.Module):
        size: int
        lost: "Buffer[Array]"

    (finding,) = audit(Plain, ignore="ANX007")
    assert (finding.code, finding.where) == ("ANX009", "Plain.lost")


def test_a_promise_that_a_plain_class_does_not_keep():
    class Base(eqx.Module):
        size: eqx.AbstractVar[anx.Hyper[int]]

    class Plain(Base):
        name: str
        size: int

    (finding,) = audit(Plain)
    assert (finding.code, finding.where) == ("ANX009", "Plain.size")
    assert finding.problem == (
        "a base promises a Hyper, and the field that implements it is not static"
    )
    assert finding.fix == "annotate size again in Plain, as Hyper[...]"


def test_aliases_that_name_themselves():
    Tree = TypeAliasType("Tree", "list[Tree] | tuple[Array, ...]")
    names = {"Tree": Tree, "Array": Array, "Text": "Text"}
    scope = Scope(lambda: (names,))
    assert held_types("list[Tree]", scope).arrays == (Array,)
    assert held_types("Text", scope) == Held()
    assert held_types("list[Nothing]", scope) == Held()
    assert held_types("not Python", scope) == Held()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is new")
def test_alias_statements_that_name_themselves():
    names = {"Array": Array}
    exec("type Tree = list[Tree] | tuple[Array, ...]", names)
    assert held_types(names["Tree"], Scope(lambda: ())).arrays == (Array,)


def test_names_of_the_function_around_a_class_are_remembered():
    def make():
        Local = Array

        class Model(anx.Module):
            weight: anx.Param[Array]
            late: "dict[Local, NeverDefined]"

        return Model

    (finding,) = audit(make())
    assert finding.problem == "NeverDefined does not exist at run time, and may be a role"


def test_a_recursive_class_in_a_buffer_is_noted_once():
    class Teacher(anx.Module):
        teacher: anx.Buffer[Recursive]

    assert found(Teacher) == [("ANX006", "Teacher.teacher")]
    assert audit(Teacher).ok
    assert found(Teacher, ignore=("ANX006",)) == []


# --- the report ----------------------------------------------------------------------


def test_the_report_as_data(package):
    report = audit("anx_sample.roles.Model.Inner")
    data = json.loads(json.dumps(report.to_dict()))
    assert data == {
        "target": "anx_sample.roles.Model.Inner",
        "ok": False,
        "classes": 1,
        "findings": [
            {
                "code": "ANX001",
                "name": "array-without-role",
                "severity": "warning",
                "where": "Inner.scale",
                "module": "anx_sample.roles",
                "problem": "it holds arrays, and no role says whether they are trained",
                "fix": "Param[...] around the type if they are, Buffer[...] if not",
                "file": str(package / "anx_sample" / "roles.py"),
                "line": 20,
            }
        ],
        "skipped": [],
        "unseen": [],
    }
    skipped = audit("anx_sample").to_dict()["skipped"]
    assert skipped == [
        {
            "module": "anx_sample.broken",
            "reason": "ModuleNotFoundError: No module named 'no_such_module_at_all'",
            "kind": "optional",
        }
    ]


def test_a_class_without_source_is_named_by_its_module():
    namespace = {"anx": anx, "Array": Array, "__name__": "typed_in"}
    exec("class Typed(anx.Module):\n    x: Array", namespace)
    (finding,) = audit(namespace["Typed"])
    assert finding.location is None
    assert str(finding).startswith("typed_in: ANX001 Typed.x: ")


def test_nothing_found_and_nothing_there():
    import annotax._text

    clean = audit(Recursive)
    assert clean.ok
    assert len(clean) == 0
    assert list(clean) == []
    assert clean
    assert repr(clean) == str(clean) == "test_audit.Recursive: nothing found in 1 class"
    empty = audit(annotax._text)
    assert str(empty) == "annotax._text: no equinox.Module is defined here"
    assert empty.ok


# --- what could not be looked at -----------------------------------------------------

MODEL = "import annotax as anx\nclass M(anx.Module):\n    x: anx.Param[anx.Array]\n"
MODEL = MODEL.replace("anx.Array", "__import__('jax').Array")
EXTRA = "import no_such_module_at_all"
SAID = """
try:
    import no_such_module_at_all
except ImportError as error:
    raise ImportError('install the extra') from error
"""


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """Makes a package of modules by name, and forgets it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(**modules):
        (tmp_path / "anx_made").mkdir()
        for name, text in {"__init__": "", **modules}.items():
            (tmp_path / "anx_made" / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return "anx_made"

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "anx_made"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (EXTRA, "optional"),
        (SAID, "optional"),
        ("from jax import no_such_name", "broken"),
        ("raise ImportError('not today')", "broken"),
        ("raise RuntimeError('not today')", "broken"),
        ("raise SystemExit(1)", "broken"),
        ("1 +", "broken"),
        ("from . import no_such_name", "broken"),
        ("from .no_such_name import x", "broken"),
        ("import anx_made.no_such_name", "broken"),
    ],
)
def test_what_is_broken_is_not_ok(make_package, text, kind):
    report = audit(make_package(good=MODEL, other=text))
    assert [(one.module, one.kind) for one in report.skipped] == [("anx_made.other", kind)]
    assert report.ok == bool(report) == (kind == "optional")
    assert report.classes == 1
    assert not report.unseen
    end = f"nothing found in 1 class; 1 module skipped (1 {kind})"
    assert str(report).endswith(f"anx_made: {end}")


def test_a_package_of_which_nothing_was_seen_is_not_ok(make_package):
    report = audit([make_package(one=EXTRA, two=EXTRA, three="1 / 0"), Recursive])
    assert not report.ok
    assert report.unseen == ("anx_made",)
    report = audit("anx_made")
    assert report.to_dict()["unseen"] == ["anx_made"]
    assert (
        str(report)
        == """\
anx_made.one: skipped (optional): ModuleNotFoundError: No module named \
'no_such_module_at_all'
anx_made.three: skipped (broken): ZeroDivisionError: division by zero
anx_made.two: skipped (optional): ModuleNotFoundError: No module named \
'no_such_module_at_all'
anx_made: nothing could be looked at; 3 modules skipped (1 broken, 2 optional)"""
    )


def test_a_package_of_which_all_is_optional_is_not_ok(make_package):
    report = audit(make_package(one=EXTRA))
    assert not report.ok
    text = "anx_made: nothing could be looked at; 1 module skipped (1 optional)"
    assert str(report).splitlines()[-1] == text


def test_nothing_found_in_a_part(make_package):
    report = audit(make_package(one=EXTRA, two=""))
    assert report.ok
    assert str(report).splitlines()[-1] == (
        "anx_made: no equinox.Module in what could be imported; 1 module skipped "
        "(1 optional)"
    )


def test_check_gives_the_audit_or_raises(make_package):
    clean = audit(Recursive)
    assert clean.check() is clean
    model = "import annotax as anx, jax\nclass M(anx.Module):\n"
    model += "".join(f"    x{at}: jax.Array\n" for at in range(22))
    report = audit(make_package(many=model, other="1 / 0"))
    assert not report
    with pytest.raises(FindingError) as caught:
        report.check()
    first, *rows = str(caught.value).splitlines()
    assert first == "anx_made: 22 warnings in 1 class; 1 module skipped (1 broken)"
    assert rows[0] == (
        "anx_made.other: skipped (broken): ZeroDivisionError: division by zero"
    )
    assert "\n".join(rows[1:3]) == str(report.findings[0])
    assert rows[-1] == "and 3 more"
    assert len(rows) == 1 + 2 * 19 + 1
    assert issubclass(FindingError, anx.AnnotaxError)
    assert issubclass(FindingError, ValueError)


def test_check_of_a_few_findings(package):
    report = audit("anx_sample.roles.Model.Inner")
    with pytest.raises(FindingError) as caught:
        report.check()
    finding = str(report.findings[0])
    assert str(caught.value) == (
        f"anx_sample.roles.Model.Inner: 1 warning in 1 class\n{finding}"
    )


# --- refusals ------------------------------------------------------------------------

REFUSALS = {
    "mistyped behind a colon": (
        "annotax:Modul",
        """\
audit: there is no 'Modul' in annotax
  expected: a class of modules
  fix:      did you mean 'Module'?""",
    ),
    "path": (
        "./mypkg",
        """\
audit: './mypkg' is a path
  expected: the name that is imported: a package, a module or a class
  fix:      audit('mypkg'), where `import mypkg` works""",
    ),
    "file": (
        "src/mypkg/models.py",
        """\
audit: 'src/mypkg/models.py' is a path
  expected: the name that is imported: a package, a module or a class
  fix:      audit('models'), where `import models` works""",
    ),
    "class in a file": (
        "C:\\work\\mypkg.py:Model",
        """\
audit: 'C:\\\\work\\\\mypkg.py:Model' is a path
  expected: the name that is imported: a package, a module or a class
  fix:      audit('mypkg'), where `import mypkg` works""",
    ),
    "here": (
        ".",
        """\
audit: '.' is a path
  expected: the name that is imported: a package, a module or a class
  fix:      audit('...'), where `import ...` works""",
    ),
    "mistyped": (
        "anx_samples",
        """\
audit: there is no module 'anx_samples'
  expected: a package or module that can be imported, or a class
  fix:      did you mean 'anx_sample'?""",
    ),
    "mistyped below": (
        "annotax.Modul",
        """\
audit: there is no module 'annotax.Modul'
  expected: a package or module that can be imported, or a class
  fix:      did you mean 'annotax.Module'?""",
    ),
    "nothing like it": (
        "zzzzqqqq",
        """\
audit: there is no module 'zzzzqqqq'
  expected: a package or module that can be imported, or a class
  fix:      install it, or start Python where it can be imported""",
    ),
    "broken": (
        "anx_sample.broken",
        """\
audit: 'anx_sample.broken' cannot be imported
  found:    ModuleNotFoundError: No module named 'no_such_module_at_all'
  fix:      make `import anx_sample.broken` work first""",
    ),
    "instance": (
        Recursive(None, jnp.ones(1)),
        """\
audit: this is an instance, and classes are looked at
  found:    a Recursive
  fix:      audit(Recursive), or summary(model) to look at the instance""",
    ),
    "class": (
        int,
        """\
audit: int is no equinox.Module
  expected: a class of modules, or the package that defines some
  found:    the class builtins.int""",
    ),
    "number": (
        3,
        """\
audit: there is nothing to look at
  expected: a package or module, its name, a class, or a sequence of these
  found:    an int""",
    ),
    "empty": (
        [],
        """\
audit: there is nothing to look at
  expected: a package or module, its name, a class, or a sequence of these
  found:    an empty sequence""",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(package, name):
    target, text = REFUSALS[name]
    with pytest.raises(TargetError) as caught:
        audit(target)
    assert str(caught.value) == text


def test_an_unknown_code_is_refused():
    text = """\
audit(ignore=...): there is no code 'ANX06'
  fix:      did you mean 'ANX006' or 'ANX009' or 'ANX008'?"""
    for ignore in (("ANX06",), "ANX06"):
        with pytest.raises(TargetError) as caught:
            audit(Recursive, ignore=ignore)
        assert str(caught.value) == text
    assert audit(Recursive, ignore="ANX006").ok


@pytest.mark.parametrize(
    "ignore",
    ["ANX002,ANX001", ["ANX001", "ANX002"], ("ANX001, ANX002",), ["ANX001,", "ANX002"]],
)
def test_codes_to_ignore_in_every_spelling(ignore):
    class Two(anx.Module):
        bare: Array
        fixed: anx.Hyper[Array]

    assert len(audit(Two)) == 2
    assert found(Two, ignore=ignore) == []


def test_a_class_behind_a_colon(package):
    for name in ("Model.Inner", "Wrong"):
        colon, dotted = (audit(f"anx_sample.roles{mark}{name}") for mark in ":.")
        assert str(colon) == str(dotted)


# --- on real code --------------------------------------------------------------------

# Each was looked at as its maintainer would: none has an array in a static field, and a
# library that knows nothing of annotax hears of nothing else.
LIBRARIES = {
    "equinox": 60,
    "lineax": 25,
    "diffrax": 80,
    "optimistix": 50,
    "flowjax": 50,
    "paramax": 3,
    "distreqx": 25,
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_published_libraries_give_no_false_alarm(name):
    report = audit(name)
    assert found(name) == []
    assert report.classes >= LIBRARIES[name]


class Solver(anx.Module):
    """What somebody writes on top of published libraries, with what is in their way."""

    operator: _lx.MatrixLinearOperator
    solver: anx.Hyper[_lx.AbstractLinearSolver]
    controller: _dfx.PIDController
    ode_solver: _dfx.Tsit5
    newton: _optx.Newton
    bijection: _fjb.Affine
    teacher: anx.Buffer[_fjb.Affine]
    frozen_operator: anx.Hyper[_lx.MatrixLinearOperator]


def test_published_libraries_as_parts_of_a_model():
    findings = found(Solver)
    assert ("ANX007", "Solver.operator") in findings
    assert ("ANX002", "Solver.frozen_operator") in findings
    silent = ("solver", "ode_solver", "teacher")
    assert not {f"Solver.{name}" for name in silent} & {where for _, where in findings}


def mutated(tmp_path, monkeypatch, name, file, *changes):
    """A copy of an installed library with changes that keep its lines; the first line.

    The copy has a name of its own, and is imported beside the library.
    """
    source = pathlib.Path(importlib.import_module(name).__file__).parent
    shutil.copytree(source, tmp_path / f"mutated_{name}")
    path = tmp_path / f"mutated_{name}" / file
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return text.splitlines().index(changes[0][1].splitlines()[0]) + 1


@pytest.fixture
def forgotten():
    """Modules of mutated libraries do not stay."""
    yield
    for name in [name for name in sys.modules if name.startswith("mutated_")]:
        del sys.modules[name]


def test_a_static_array_in_a_published_library(tmp_path, monkeypatch, forgotten):
    field = '    matrix: Inexact[Array, "a b"]'
    change = (f"{field}\n", f"{field} = eqx.field(static=True)\n")
    line = mutated(tmp_path, monkeypatch, "lineax", "_operator.py", change)
    (finding,) = audit("mutated_lineax")
    assert (finding.code, finding.where) == ("ANX008", "MatrixLinearOperator.matrix")
    assert finding.location.line == line
    assert finding.location.file.endswith("mutated_lineax/_operator.py")


def test_a_published_class_that_is_annotated_in_part(tmp_path, monkeypatch, forgotten):
    line = mutated(
        *(tmp_path, monkeypatch, "paramax", "wrappers.py"),
        (
            "class WeightNormalization(AbstractUnwrappable[Array]):",
            "class WeightNormalization(AbstractUnwrappable[Array], anx.Module):",
        ),
        ("import equinox as eqx\n", "import equinox as eqx, annotax as anx\n"),
        ("    scale: Array | Abs", "    scale: anx.Param[Array] | Abs"),
    )
    report = audit("mutated_paramax")
    (bare,) = [one for one in report if one.code == "ANX001"]
    assert bare.where == "WeightNormalization.weight"
    source = (tmp_path / "mutated_paramax" / "wrappers.py").read_text().splitlines()
    assert bare.location.line > line
    assert source[bare.location.line - 1].startswith("    weight: Array")
    # A class of the library beside it, of which nobody says anything.
    others = [(one.code, one.where) for one in report if one is not bare]
    assert others == [("ANX007", "RealToIncreasingOnInterval")]


class Weighted(_fjb.Affine, anx.Module):
    """A published class with a field more."""

    more: Array


class Learned(_optx.Newton, anx.Module):
    """A published solver with a field more."""

    damping: Float[Array, ""] = 1.0
    sizes: anx.Hyper[list[int]] = ()


def test_published_classes_as_bases():
    assert ("ANX001", "Weighted.more") in found(Weighted)
    assert ("ANX007", "Affine") in found(Weighted)
    assert [one for one in found(Learned) if one[1].startswith("Learned")] == [
        ("ANX001", "Learned.damping"),
        ("ANX003", "Learned.sizes"),
    ]


def is_of_the_demo(node):
    """Whether an import needs what the tests alone do not install."""
    return "matplotlib" in ast.unparse(node)


def documented_classes(path):
    """The class statements of a page or an example, with the names they need."""
    text = path.read_text()
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    kept = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.Import | ast.ImportFrom) and not is_of_the_demo(node))
        or (isinstance(node, ast.Assign) and re.search("TypeVar|Role", ast.unparse(node)))
        or ast.unparse(node).startswith("anx.register(Scale")
    ]
    return ast.unparse(ast.Module(kept, []))


PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.*"))
    if path.suffix in (".md", ".py")
    and "(anx.Module)" in documented_classes(path)
    # The pages of errors are about classes that have them.
    and path.parent.name != "errors"
]
INTENDED = {
    "declaring.md": [("ANX006", "Linear.teacher")],
    "faq.md": [("ANX006", "Later.next")],
    "moving-average.md": [("ANX006", "Averaged.average")],
    # What the page is about.
    "looking.md": [("ANX001", "Model.table"), ("ANX003", "Model.sizes")],
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_our_own_examples(path, tmp_path, monkeypatch):
    (tmp_path / "page.py").write_text(documented_classes(path))
    spec = importlib.util.spec_from_file_location("page", tmp_path / "page.py")
    page = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "page", page)
    spec.loader.exec_module(page)
    assert audit(page).classes > 0
    assert found(page) == INTENDED.get(path.name, [])


# --- properties ----------------------------------------------------------------------


@given(st.integers(0, POOL - 1), st.booleans())
def test_audit_of_a_drawn_class_never_fails(number, ours):
    plan = (annotated_class if ours else foreign_class)(number)
    version, report = registry.version, audit(plan.cls)
    assert registry.version == version
    json.dumps(report.to_dict())
    assert str(report).count("\n") == 2 * len(report)
    assert report.ok  # `Any` holds no arrays for certain


@given(
    st.lists(st.sampled_from([*ARRAY_ROLES, None, "Hyper"]), min_size=1, max_size=4),
    st.sampled_from(["{}[Array]", "{}[Array] | None", "'{}[Array]'", "list[{}[Array]]"]),
)
def test_only_fields_without_a_role_lack_one(roles, spelling):
    wanted = {"Hyper": "ANX002", None: "ANX001"}
    aliases = {**ARRAY_ROLES, "Hyper": anx.Hyper}
    rows = [
        f"f{at}: {spelling.format(role) if role else 'Array'}"
        for at, role in enumerate(roles)
    ]
    cls = drawn_class(tuple(rows), aliases)
    assert found(cls) == [
        (wanted[role], f"Drawn.f{at}") for at, role in enumerate(roles) if role in wanted
    ]


_DRAWN: dict[tuple[str, ...], type] = {}


def drawn_class(rows, aliases):
    """A class with these annotations, made once: JAX never forgets a class."""
    if rows not in _DRAWN:
        namespace = {**aliases, "anx": anx, "Array": Array, "__name__": __name__}
        exec("\n    ".join(["class Drawn(anx.Module):", *rows]), namespace)
        _DRAWN[rows] = namespace["Drawn"]
    return _DRAWN[rows]


def test_layers_of_equinox_are_all_spoken_for():
    assert layers()
    for layer in layers():
        assert found(type(layer.template)) == []
