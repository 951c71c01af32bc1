"""Every spelling of a role, and every place where one may stand."""

import dataclasses
import importlib.util
import inspect
import pickle
import sys
import textwrap
import typing
import warnings
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Generic, Optional, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, PyTree
from typing_extensions import TypeAliasType

import annotax as anx
from annotax._registry import registry
from annotax._specs import field_specs

T = TypeVar("T")
BatchStat = Annotated[T, anx.Role("batch_stat", parent=anx.Buffer)]
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]
Matrix = Float[Array, "n m"]
Weight = anx.Param[Matrix]
AliasType = TypeAliasType("AliasType", anx.Buffer[Matrix])
GenericAlias = TypeAliasType("GenericAlias", anx.Param[T], type_params=(T,))
Recursive = TypeAliasType("Recursive", "list[Recursive] | anx.Buffer[Array]")


def roles(cls: type) -> dict[str, str | None]:
    return {s.name: s.role.name if s.role else None for s in field_specs(cls)}


def load(name: str, source: str, tmp_path: Any) -> Any:
    """A module from source, so that strings and scopes are those of a real file."""
    path = tmp_path / f"{name}.py"
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# --- spellings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "role"),
    [
        (anx.Param[Matrix], "param"),
        (anx.Buffer[Matrix], "buffer"),
        (anx.Param, "param"),
        (anx.Param[Matrix] | None, "param"),
        (anx.Param[Matrix | None], "param"),
        (Optional[anx.Buffer[Matrix]], "buffer"),  # noqa: UP045 -- the spelling is the test
        (list[anx.Param[Matrix]], "param"),
        (dict[str, tuple[anx.Buffer[Matrix], ...]], "buffer"),
        (PyTree[anx.Buffer[Matrix]], "buffer"),
        (Callable[[anx.Param[Matrix]], Array], "param"),
        (Annotated[anx.Param[Matrix], "remark"], "param"),
        (anx.Param[Annotated[Matrix, "remark"]], "param"),
        (anx.Param[anx.Param[Matrix]], "param"),
        (BatchStat[Matrix], "batch_stat"),
        (Weight, "param"),
        (AliasType, "buffer"),
        (GenericAlias[Matrix], "param"),
        (list[GenericAlias[Matrix]], "param"),
        (Recursive, "buffer"),
        (typing.Final[anx.Param[Matrix]], "param"),
        ("anx.Param[Matrix]", "param"),
        ("anx.Param['Matrix']", "param"),
        ("list[anx.Buffer[Matrix]]", "buffer"),
        (list["anx.Buffer[Matrix]"], "buffer"),
        (typing.List["anx.Buffer[Missing]"], "buffer"),  # noqa: UP006
        ("anx.Param[Missing]", "param"),
        ("anx.Param[Missing] | None", "param"),
        ("Optional[anx.Param[Missing]]", "param"),
        ("dict[str, list[anx.Buffer[Missing]]]", "buffer"),
        ("dict[str, 'anx.Buffer[Missing]']", "buffer"),
        ("Missing[anx.Buffer[Array]]", "buffer"),
        ("anx.Param[Float[Missing, 'Hyper anx.Buffer']]", "param"),
        ("Annotated[anx.Param[Missing], 'anx.Buffer[int]']", "param"),
        ("BatchStat[Missing]", "batch_stat"),
        ("dict[Missing, 'anx.Buffer[int]']", "buffer"),
        ("Missing['anx.Buffer[int]', Array]", "buffer"),
        ("anx.Param[Missing[Array, 'n m']]", "param"),
        ("Missing[Array, 'n m', '*#n ...']", None),
        ("Weight", "param"),
        ("AliasType", "buffer"),
        (typing.Literal["anx.Param[Array]"], None),
        ("typing.Literal['anx.Param[Array]']", None),
        (Matrix, None),
        (int, None),
        ("a length, in metres", None),
        (list["n m"], None),
        ("list['n m']", None),
        ("Missing", None),
    ],
)
def test_the_role_is_found_wherever_it_stands(annotation, role):
    class Model(anx.Module):
        __annotations__ = {"field": annotation}

    assert roles(Model) == {"field": role}


def test_hyper_is_static_however_it_is_spelled():
    class Model(anx.Module):
        a: anx.Hyper[int]
        b: "anx.Hyper[int]"
        c: anx.Hyper[int] | None
        d: "anx.Hyper[Missing]"
        e: int = anx.field(role=anx.Hyper)

    with pytest.warns(anx.AnnotationWarning, match=r"Model\.d: .* not checked"):
        assert jax.tree_util.tree_leaves(Model(1, 2, None, 4, 5)) == []


def test_axes_default_to_the_dimension_names():
    class Model(anx.Module):
        a: anx.Param[Float[Array, "batch #heads d=3 _ 4 n+1 ..."]]
        b: anx.Param[list[Float[Array, "n m"]] | None]
        c: anx.Param[Float[Array, "n m"] | Float[Array, " n"]]
        d: anx.Param[Float[Array, "n m"]] = anx.field(axes=("rows", None))
        e: anx.Param[Array]
        f: anx.Param[Float[Array, "*batch _hidden"]]
        g: "anx.Param[Float[Missing, 'n m']]"
        h: "anx.Param[Float[Missing, 'n m'] | Float[Missing, 'n']]"

    axes = {s.name: s.axes for s in field_specs(Model)}
    assert axes == {
        "a": ("batch", "heads", "d", None, None, "n+1", "..."),
        "b": ("n", "m"),
        "c": None,
        "d": ("rows", None),
        "e": None,
        "f": ("*batch", "hidden"),
        "g": ("n", "m"),
        "h": None,
    }


def test_future_annotations_and_type_checking_imports(tmp_path):
    module = load(
        "future_model",
        """
        from __future__ import annotations
        from typing import TYPE_CHECKING, Optional
        import annotax as anx
        from annotax import Buffer, Hyper, Param as Trained
        from jaxtyping import Array, Float
        if TYPE_CHECKING:
            from somewhere import Layer
        class Model(anx.Module):
            weight: Trained[Float[Array, "n m"]]
            layer: Buffer[Layer]
            parts: Optional[list[Trained[Layer]]]
            later: Buffer[Later]
            itself: Trained[Model] | None
            size: Hyper[int]
            plain: Layer
        class Later(anx.Module):
            pass
        """,
        tmp_path,
    )
    assert roles(module.Model) == {
        "weight": "param",
        "layer": "buffer",
        "parts": "param",
        "later": "buffer",
        "itself": "param",
        "size": "hyper",
        "plain": None,
    }
    with pytest.warns(anx.AnnotationWarning, match="not checked") as caught:
        model = module.Model(
            jnp.ones((2, 3)), jnp.ones(1), [], module.Later(), None, 3, module.Later()
        )
    unchecked = [str(warning.message).partition(":")[0] for warning in caught]
    assert unchecked == ["Model.layer", "Model.parts"]  # both say Layer
    assert list(anx.params(model)) == ["weight"]


def test_a_class_after_the_first_is_resolved_at_first_construction(tmp_path):
    module = load(
        "later_model",
        """
        import annotax as anx
        from jaxtyping import Array, Float
        class Model(anx.Module):
            weight: "anx.Param[Matrix]"
        Matrix = Float[Array, "n m"]
        """,
        tmp_path,
    )
    assert field_specs(module.Model)[0].axes is None
    model = module.Model(jnp.ones((2, 3)))
    assert field_specs(module.Model)[0].axes == ("n", "m")
    assert anx.records(model)[0].axes == ("n", "m")


def test_aliases_and_classes_local_to_a_function():
    def make():
        Local = anx.Buffer[Matrix]

        def inner():
            class Part(anx.Module):
                table: "Local"

            class Whole(anx.Module):
                part: "anx.Param[Part]"
                other: "anx.Param[After]"

            class After(anx.Module):
                pass

            return Part, Whole, Whole(Part(jnp.ones((1, 1))), After())

        return inner()

    part, whole, _ = make()
    assert roles(part) == {"table": "buffer"}
    specs = {s.name: s for s in field_specs(whole)}
    assert typing.get_args(specs["part"].hint)[0] is part
    assert typing.get_args(specs["other"].hint)[0].__name__ == "After"


def test_an_alias_in_the_class_body():
    class Model(anx.Module):
        Local: ClassVar[Any] = anx.Buffer[Matrix]
        table: "Local"

    assert roles(Model) == {"table": None}  # annotated names are fields, not aliases

    class Other(anx.Module):
        Local = anx.Buffer[Matrix]
        table: "Local"

    assert roles(Other) == {"table": "buffer"}


def test_generic_classes():
    class Box(anx.Module, Generic[T]):
        content: anx.Buffer[T]
        size: "anx.Hyper[int]"

    box = Box[int](jnp.ones(2), 3)
    assert roles(Box) == {"content": "buffer", "size": "hyper"}
    assert list(anx.params(box)) == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695 syntax needs Python 3.12")
def test_pep_695(tmp_path):
    module = load(
        "pep695_model",
        """
        import annotax as anx
        from jaxtyping import Array, Float
        type Table = anx.Buffer[Array]
        type Trained[X] = anx.Param[X]
        type Pair[A, B] = tuple[B, anx.Buffer[A]]
        class Model[X](anx.Module):
            table: Table
            weight: Trained[Float[Array, "n m"]]
            string: "Trained[X]"
            pair: Pair[Float[Array, " n"], int]
        type Hidden = anx.Buffer[Later]
        class Late(anx.Module):
            x: Hidden
        type Later = Array
        """,
        tmp_path,
    )
    assert roles(module.Model) == {
        "table": "buffer",
        "weight": "param",
        "string": "param",
        "pair": "buffer",
    }
    axes = [s.axes for s in field_specs(module.Model)]
    assert axes == [None, ("n", "m"), None, ("n",)]
    with pytest.raises(anx.AnnotationError, match=r"Hidden.* which is a buffer only since"):
        module.Late(jnp.ones(1))


# --- fields --------------------------------------------------------------------------


def test_field_takes_what_equinox_takes():
    class Model(anx.Module):
        a: anx.Param[Array] = anx.field(converter=jnp.asarray)
        b: anx.Hyper[int] = anx.field(default=3, kw_only=True)
        c: anx.Buffer[list[Array]] = anx.field(default_factory=list, repr=False)
        d: int = anx.field(static=True, default=4)
        e: anx.Hyper[tuple[int, ...]] = anx.field(converter=tuple, default=())
        f: anx.Hyper[int] = anx.field(init=False)
        g: anx.Param[float] = dataclasses.field(default=1.0, metadata={"unit": "m"})
        h: anx.Param[float] = anx.field(default=1.0, metadata={"unit": "s"}, doc="a time")

        def __post_init__(self):
            self.f = 2

    model = Model(1.0, e=[1, 2])
    assert isinstance(model.a, jax.Array)
    assert (model.b, model.c, model.d, model.e, model.f, model.g) == (
        3,
        [],
        4,
        (1, 2),
        2,
        1,
    )
    specs = {s.name: s for s in field_specs(Model)}
    assert dict(specs["g"].metadata) == {"unit": "m"}
    assert (dict(specs["h"].metadata), specs["h"].doc) == ({"unit": "s"}, "a time")
    assert dataclasses.fields(Model)[-1].metadata["unit"] == "s"
    assert [s.name for s in specs.values() if s.static] == ["b", "d", "e", "f"]


def test_the_signature_is_that_of_the_equinox_twin():
    class Ours(anx.Module):
        a: anx.Hyper[int]
        b: anx.Hyper[tuple] = anx.field(converter=tuple)
        c: anx.Param[Array] = anx.field(default=1, kw_only=True)
        d: anx.Hyper[str] = anx.field(converter=str, default="x")

    class Twin(eqx.Module):
        a: anx.Hyper[int] = eqx.field(static=True)
        b: anx.Hyper[tuple] = eqx.field(static=True, converter=tuple)
        c: anx.Param[Array] = eqx.field(default=1, kw_only=True)
        d: anx.Hyper[str] = eqx.field(static=True, converter=str, default="x")

    assert inspect.signature(Ours) == inspect.signature(Twin)
    assert Ours.__init__.__annotations__ == Twin.__init__.__annotations__


def test_init_variables_class_variables_and_kw_only():
    class Model(anx.Module):
        kind: ClassVar[str] = "constant"
        scale: dataclasses.InitVar[float]
        _: dataclasses.KW_ONLY
        weight: anx.Param[Array] = None
        size: anx.Hyper[int] = 2

        def __post_init__(self, scale):
            self.weight = jnp.ones(self.size) * scale

    model = Model(3.0, size=4)
    assert [s.name for s in field_specs(Model)] == ["weight", "size"]
    assert model.weight.tolist() == [3.0] * 4


def test_custom_init_and_check_init():
    calls = []

    class Model(anx.Module):
        weight: anx.Param[Matrix]
        size: anx.Hyper[int]

        def __init__(self, size, key):
            self.size = size
            self.weight = jax.random.normal(key, (size, size))

        def __check_init__(self):
            calls.append(self.size)

    Model(3, jax.random.key(0))
    assert calls == [3]


def test_a_hyper_that_init_does_not_set_comes_from_the_class():
    class Model(anx.Module):
        rate: anx.Hyper[float] = 0.5
        buffer: anx.Buffer[Any] = None

        def __init__(self):
            pass

    model = Model()
    assert (model.rate, model.buffer) == (0.5, None)
    assert jax.tree_util.tree_leaves(model) == []


# --- inheritance ---------------------------------------------------------------------


class Base(anx.Module):
    x: anx.Buffer[Array]


def gradient(model):
    return jax.grad(lambda m: jnp.sum(m.x**2))(model).x.tolist()


def test_a_role_is_overridden_both_ways():
    class Trained(Base):
        x: anx.Param[Array]

    class Again(Trained):
        x: anx.Buffer[Array]

    class Static(Base):
        x: anx.Hyper[int]

    class Plain(Base):
        x: Array

    ones = jnp.ones(2)
    assert gradient(Base(ones)) == gradient(Again(ones)) == [0, 0]
    assert gradient(Trained(ones)) == gradient(Plain(ones)) == [2, 2]
    assert jax.tree_util.tree_leaves(Static(3)) == []
    assert roles(Plain) == {"x": None}  # as in Equinox, an annotation says all anew

    class FromStatic(Static):
        x: anx.Param[Array]

    assert gradient(FromStatic(ones)) == [2, 2]


def test_defaults_survive_overriding():
    class First(anx.Module):
        x: anx.Buffer[Any] = 1
        y: anx.Hyper[int] = 2
        z: anx.Param[Any] = 3

    class Second(First):
        x: anx.Param[Any]
        y: anx.Buffer[Any]
        z: anx.Hyper[int]

    second = Second()
    assert (second.x, second.y, second.z) == (1, 2, 3)
    assert (Second.x, First.x, First.y) == (1, 1, 2)


def test_an_unset_buffer_fails_like_an_unset_field():
    class Model(anx.Module):
        x: anx.Buffer[Array]

        def __init__(self):
            pass

    with pytest.raises(TypeError, match="Field 'x' was not initialized"):
        Model()
    with pytest.raises(AttributeError, match="type object 'Model' has no attribute 'x'"):
        Model.x
    hollow = object.__new__(Model)
    with pytest.raises(AttributeError, match="'Model' object has no attribute 'x'"):
        hollow.x
    assert not hasattr(Model, "x")


def test_a_mixin_that_means_another_role_wins_in_the_order_of_the_classes():
    class Plain(anx.Module):
        x: anx.Param[Array]

    class First(Plain, Base):
        pass

    class Second(Base, Plain):
        pass

    assert gradient(First(jnp.ones(1))) == [2]
    assert gradient(Second(jnp.ones(1))) == [0]


def test_a_class_attribute_of_a_subclass_does_not_open_the_buffer():
    class Model(anx.Module):
        x: anx.Buffer[Any]

        def __init__(self, x):
            self.x = x

    class Sub(Model):
        x = 3.0

    assert gradient(Sub(jnp.ones(1))) == [0]
    assert Sub.x == 3.0


def test_foreign_bases_in_both_orders():
    class Foreign(eqx.Module):
        w: Array
        n: int = eqx.field(static=True)

    class Mixin(anx.Module):
        b: anx.Buffer[Array]
        p: anx.Hyper[float]

    class First(Foreign, Mixin):
        pass

    class Second(Mixin, Foreign):
        pass

    for cls in (First, Second):
        model = cls(w=jnp.ones(1), n=2, b=jnp.ones(1), p=1)
        grads = jax.grad(lambda m: jnp.sum(m.w * m.b))(model)
        assert (grads.w.tolist(), grads.b.tolist()) == ([1], [0])
        assert list(anx.params(model)) == ["w"]
        assert type(model.p) is float


def test_a_foreign_base_whose_init_subclass_stops_the_chain_is_refused():
    class Foreign(eqx.Module):
        def __init_subclass__(cls, **kwargs):
            pass

    class Fine(Foreign, anx.Module):
        x: anx.Buffer[Array]

    assert gradient(Fine(jnp.ones(1))) == [0]
    with pytest.raises(anx.AnnotationError, match="does not call super") as caught:

        class Broken(Foreign, anx.Module):
            rate: anx.Hyper[float]

    assert "fields rate; __init_subclass__ in Foreign\n" in str(caught.value)


def test_abstract_fields():
    class Abstract(anx.Module):
        a: eqx.AbstractVar[anx.Param[Array]]
        b: "eqx.AbstractVar[anx.Buffer[Missing]]"
        c: eqx.AbstractClassVar[int]
        d: "eqx.AbstractClassVar[int]"

    with pytest.raises(TypeError, match="abstract"):
        Abstract()
    assert Abstract.__abstractvars__ == {"a", "b"}
    assert Abstract.__abstractclassvars__ == {"c", "d"}

    class Concrete(Abstract):
        a: Array
        b: Array
        c: ClassVar[int] = 1
        d: ClassVar[int] = 2

    assert roles(Concrete) == {"a": "param", "b": "buffer"}  # what the base promised

    class Property(Abstract):
        c = 1
        d = 2

        @property
        def a(self):
            return jnp.ones(1)

        @property
        def b(self):
            return jnp.zeros(1)

    assert Property().a.tolist() == [1]
    assert Concrete(jnp.ones(1), jnp.ones(1)).b.tolist() == [1]


def test_abstract_fields_as_future_annotations(tmp_path):
    module = load(
        "abstract_model",
        """
        from __future__ import annotations
        import equinox as eqx
        import annotax as anx
        from equinox import AbstractVar
        class Abstract(anx.Module):
            size: AbstractVar[anx.Hyper[int]]
            name: eqx.AbstractClassVar[str]
        class Concrete(Abstract):
            name = "c"
            size: anx.Hyper[int]
        """,
        tmp_path,
    )
    with pytest.raises(TypeError, match="abstract"):
        module.Abstract()
    assert jax.tree_util.tree_leaves(module.Concrete(3)) == []


def test_a_promise_holds_wherever_the_abstract_field_and_its_implementation_stand():
    class Ours(anx.Module):
        x: eqx.AbstractVar[anx.Buffer[Array]]

    class Plain(eqx.Module):
        x: eqx.AbstractVar[anx.Buffer[Array]]

    class Mixin(anx.Module):
        x: Array

    class PlainMixin(eqx.Module):
        x: Array

    for bases in ((Plain, anx.Module), (Mixin, Ours), (PlainMixin, Ours), (Mixin, Plain)):
        own = {"__annotations__": {"x": Array}} if bases[0] is Plain else {}
        cls = type(anx.Module)("Concrete", bases, {"__module__": __name__, **own})
        assert roles(cls) == {"x": "buffer"}
        assert gradient(cls(jnp.ones(1))) == [0]

    class Override(Ours):
        x: anx.Param[Array]

    class Again(Override):
        x: Array

    assert (roles(Override), roles(Again)) == ({"x": "param"}, {"x": None})


def test_a_promised_hyper_that_is_not_static_is_refused():
    class Abstract(anx.Module):
        n: eqx.AbstractVar[anx.Hyper[int]]

    class Mixin(eqx.Module):
        n: int

    with pytest.raises(anx.AnnotationError, match="promises a Hyper") as caught:

        class Broken(Mixin, Abstract):
            pass

    assert "Broken.n" in str(caught.value)

    class Fine(Abstract):
        n: int

    assert jax.tree_util.tree_leaves(Fine(3)) == []


@pytest.mark.parametrize(("root", "side"), [(anx.Hyper, anx.Param), (anx.Param, anx.Hyper)])
def test_diamonds_follow_the_dataclass(root, side):
    class Root(anx.Module):
        x: root[Any]

    class Left(Root):
        pass

    class Right(Root):
        x: side[Any]

    class Both(Left, Right):
        pass

    twin = "static" in dataclasses.fields(Both)[0].metadata
    assert field_specs(Both)[0].static == twin
    value = 3 if twin else jnp.ones(2)
    assert len(anx.records(Both(value))) == (not twin)


def test_role_aliases_of_pep_695_are_roles():
    Stat = TypeAliasType("Stat", BatchStat[T], type_params=(T,))

    class Model(anx.Module):
        x: Stat[Array]
        y: Array = anx.field(role=Stat)

    assert roles(Model) == {"x": "batch_stat", "y": "batch_stat"}
    assert anx.by_role(Stat).count(Model(jnp.ones(1), jnp.ones(1))) == 2
    assert anx.Role("x", parent=Stat).is_a(anx.Buffer)


def test_a_role_object_is_as_good_as_its_alias():
    stat = anx.Role("stat", parent=anx.Buffer)

    class Model(anx.Module):
        x: stat
        y: "stat"

    assert roles(Model) == {"x": "stat", "y": "stat"}


def test_inner_functions_shadow_outer_ones():
    def outer():
        Alias = anx.Param[Array]  # noqa: F841

        def inner():
            Alias = anx.Buffer[Array]

            class Model(anx.Module):
                x: "Alias"

            return Model

        return inner()

    assert roles(outer()) == {"x": "buffer"}


def test_what_the_class_body_saw_is_kept_until_the_first_construction():
    def make():
        Local = Float[Array, "n m"]

        class Model(anx.Module):
            x: "anx.Param[tuple[Local, Late]]"

        return Model

    model = make()
    globals()["Late"] = int
    try:
        model((jnp.ones((1, 1)), 1))
    finally:
        del globals()["Late"]
    assert field_specs(model)[0].axes == ("n", "m")


def test_settled_classes_are_settled_once():
    class Model(anx.Module):
        x: "anx.Param[NeverDefined]"

    assert Model in registry.unsettled
    with pytest.warns(anx.AnnotationWarning, match="not checked"):
        Model(jnp.ones(1))
    assert Model not in registry.unsettled

    class Sub(Model):
        pass

    Sub(jnp.ones(1))
    assert Sub not in registry.unsettled


def test_class_keywords_reach_the_users_init_subclass():
    seen = []

    class Model(anx.Module):
        def __init_subclass__(cls, tag="", **kwargs):
            seen.append(tag)
            super().__init_subclass__(**kwargs)

    class Sub(Model, tag="word", strict=True):
        x: anx.Hyper[int]

    assert seen == ["word"]
    assert jax.tree_util.tree_leaves(Sub(1)) == []

    class Base:
        def __init_subclass__(cls, word, **kwargs):
            seen.append(word)
            super().__init_subclass__(**kwargs)

    class Other(anx.Module, Base, word="passed on"):
        pass

    assert seen[-1] == "passed on"


def test_strings_of_others_that_are_no_annotations_are_left_alone():
    class Foreign(eqx.Module):
        x: "not an annotation ("

    assert anx.trainable_filter.paths(Foreign(jnp.ones(1))) == ("x",)


def test_roles_in_other_dataclass_pytrees_are_refused_until_registered():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Data:
        a: anx.Buffer[Array]

    with pytest.raises(anx.AnnotationError, match=r"Data\.a: a role in a class"):
        anx.params([Data(jnp.ones(1))])
    anx.register(Data)
    assert list(anx.params([Data(jnp.ones(1))])) == []


def test_a_property_may_stand_in_for_a_hyper_of_the_base():
    class Model(anx.Module):
        size: anx.Hyper[int]

    class Sub(Model):
        weight: anx.Param[Array]

        def __init__(self, weight):
            self.weight = weight

        @property
        def size(self):
            return self.weight.shape[0]

    assert Sub(jnp.ones(3)).size == 3


def test_a_property_may_stand_in_for_a_buffer_of_the_base():
    class Sub(Base):
        weight: anx.Param[Array]

        def __init__(self, weight):
            self.weight = weight

        @property
        def x(self):
            return self.weight * 2

    assert Sub(jnp.ones(2)).x.tolist() == [2, 2]


# --- beside Equinox, and other people's classes --------------------------------------


def test_no_warning_from_equinox_comes_first():
    class Model(anx.Module):
        rate: anx.Hyper[float]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(anx.HyperError):
            Model(jnp.ones(1))


def test_equinox_warnings_point_at_the_user():
    with pytest.warns(UserWarning, match="__post_init__") as caught:

        class Model(anx.Module):
            x: anx.Param[Array]

            def __init__(self):
                self.x = 1

            def __post_init__(self):
                pass

    assert caught[0].filename == __file__


def test_roles_in_a_plain_module_are_refused_until_it_is_registered():
    class Plain(eqx.Module):
        x: anx.Buffer[Array]

    model = Plain(jnp.ones(1))
    with pytest.raises(anx.AnnotationError, match=r"Plain\.x: a role in a class"):
        anx.params(model)
    anx.register(Plain)
    assert list(anx.params(model)) == []


def test_register_reads_annotations_and_the_last_word_wins():
    @anx.register
    class Foreign(eqx.Module):
        a: anx.Buffer[Float[Array, "n m"]]
        b: Array
        c: float = 0.5

    model = Foreign(jnp.ones((1, 1)), jnp.ones(1))
    assert list(anx.params(model)) == ["b"]
    record = anx.records(model)[0]
    assert (record.origin, record.axes, record.owner) == ("registered", ("n", "m"), Foreign)
    anx.register(
        Foreign, b=anx.field(role=anx.Buffer, axes=("k",), tags=["t"]), c=anx.Hyper
    )
    assert list(anx.params(model)) == []
    assert anx.by_tag("t").paths(model) == ("b",)
    assert [r.role.name for r in anx.records(model)] == ["buffer", "buffer", "hyper"]
    anx.register(Foreign, a=LoRA)
    assert list(anx.params(model)) == ["a"]

    class Sub(Foreign):
        d: Array = 1.0

    assert [r.origin for r in anx.records(Sub(jnp.ones(1), jnp.ones(1)))][:2] == [
        "registered"
    ] * 2


def test_register_on_a_dataclass_that_is_no_module():
    @anx.register
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Data:
        a: anx.Param[Array]
        b: anx.Buffer[Array]

    assert list(anx.params({"d": Data(jnp.ones(1), jnp.ones(1))})) == ["d.a"]


def test_roles_compare_hash_and_pickle_by_name_and_ancestry():
    one = anx.Role("ema", parent=anx.Buffer)
    two = anx.Role("ema", parent=anx.Buffer)
    assert one == two
    assert hash(one) == hash(two)
    assert one != anx.Role("ema", parent=anx.Param)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.is_a(anx.Buffer)
    assert not one.is_a(anx.Param)
    assert anx.Role.of(anx.Buffer) == anx.Buffer
    with pytest.raises(AttributeError, match="cannot be changed") as caught:
        one.name = "other"
    assert str(caught.value).endswith("  fix:      Role(..., parent=...) makes another")
