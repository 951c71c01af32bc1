"""The text of every message: class or path, what was expected, what was found, the fix.

Those of the checks are in `test_check_messages.py`, those of checkpoints in
`test_checkpoint_messages.py`.
"""

import dataclasses
import textwrap
from typing import Annotated, Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

import annotax as anx

T = TypeVar("T")
LoRA = Annotated[T, anx.Role("lora", parent=anx.Param)]


def message(error, action):
    with pytest.raises(error) as caught:
        action()
    assert isinstance(caught.value, anx.AnnotaxError)
    assert isinstance(caught.value, TypeError | ValueError)
    return str(caught.value)


def text(block):
    return textwrap.dedent(block).strip("\n")


def make(annotation, value=None, base=anx.Module):
    namespace = {"__annotations__": {"x": annotation}, "__module__": __name__}
    if value is not None:
        namespace["x"] = value
    return type(anx.Module)("Model", (base,), namespace)


@pytest.mark.parametrize(
    "annotation", [anx.Param[anx.Buffer[Array]], "anx.Param[anx.Buffer[Array]]"]
)
def test_two_roles(annotation):
    found = message(anx.AnnotationError, lambda: make(annotation))
    assert found.startswith(
        "Model.x: two roles in one annotation\n  expected: one of Param,"
    )
    assert "buffer and param in" in found or "param and buffer in" in found
    assert found.endswith("  fix:      keep the one that is meant")
    assert "lora" in message(anx.AnnotationError, lambda: make(LoRA[anx.Param[Array]]))
    assert "two roles" in message(
        anx.AnnotationError, lambda: make("anx.Param[No] | anx.Buffer[No]")
    )


def test_a_twin_that_disagrees():
    found = message(
        anx.AnnotationError, lambda: make("anx.Param[Array]", anx.field(role=anx.Buffer))
    )
    assert found == text(
        """
        Model.x: the annotation and field(role=...) disagree
          expected: the same role, or only one of the two
          found:    param in 'anx.Param[Array]', buffer in field(role=...)
          fix:      remove the role from field(...)
        """
    )
    make("anx.Param[Array]", anx.field(role=anx.Param))


def test_a_role_on_a_static_field():
    found = message(
        anx.AnnotationError, lambda: make("anx.Param[Array]", eqx.field(static=True))
    )
    assert found == text(
        """
        Model.x: a param cannot be static
          expected: arrays in the PyTree, or a static field without arrays
          found:    'anx.Param[Array]' with field(static=True)
          fix:      drop static=True, or annotate it Hyper[...]
        """
    )
    make(anx.Hyper[int], eqx.field(static=True))


def test_a_role_around_an_abstract_field():
    expected = text(
        """
        Model.x: a role and AbstractVar contradict each other as written
          expected: AbstractVar[Param[...]]
          found:    'anx.Param[eqx.AbstractVar[Array]]'
          fix:      put the role inside
        """
    )
    assert (
        message(anx.AnnotationError, lambda: make("anx.Param[eqx.AbstractVar[Array]]"))
        == expected
    )
    unresolved = "anx.Param[eqx.AbstractVar[Missing]]"
    assert message(anx.AnnotationError, lambda: make(unresolved)) == expected.replace(
        "anx.Param[eqx.AbstractVar[Array]]", unresolved
    )
    found = message(anx.AnnotationError, lambda: make(anx.Param[eqx.AbstractVar[Array]]))
    assert found.startswith("Model.x: a role and AbstractVar contradict")


@pytest.mark.parametrize(
    ("name", "annotation"),
    [
        ("ClassVar", ClassVar[anx.Param[Array]]),
        ("ClassVar", "ClassVar[anx.Param[Array]]"),
        ("ClassVar", "ClassVar[anx.Param[Missing]]"),
        ("InitVar", dataclasses.InitVar[anx.Param[Array]]),
        ("InitVar", "dataclasses.InitVar[anx.Param[Array]]"),
    ],
)
def test_a_role_on_what_is_no_field(name, annotation):
    found = message(anx.AnnotationError, lambda: make(annotation))
    written = annotation if isinstance(annotation, str) else f"{name}[Param[Array]]"
    assert f"found:    {written!r}\n" in found
    assert f"Model.x: a role and {name} contradict each other as written" in found
    assert f"a {name} is no field: drop the role" in found


def test_an_annotation_that_is_no_python():
    found = message(anx.AnnotationError, lambda: make("anx.Param[Array"))
    assert found == text(
        """
        Model.x: the annotation 'anx.Param[Array' is not Python
          fix:      close every bracket and quote
        """
    )
    found = message(anx.AnnotationError, lambda: make(list["anx.Param[Array"]))
    assert found == text(
        """
        Model.x: 'anx.Param[Array' in the annotation is not Python
          fix:      close every bracket and quote
        """
    )


def test_an_alias_that_proves_to_be_a_role_too_late():
    class Late(anx.Module):
        x: "Alias[Array]"

    globals()["Alias"] = anx.Buffer
    try:
        found = message(anx.AnnotationError, lambda: Late(jnp.ones(1)))
    finally:
        del globals()["Alias"]
    assert found == text(
        """
        Late.x: its role could not be read when the class was made
          expected: the name of the role to be defined before the class
          found:    'Alias[Array]', which is a buffer only since
          fix:      import or define it first (not under TYPE_CHECKING), or write the twin:
                    x: ... = annotax.field(role=annotax.Buffer)
        """
    )


def test_a_role_imported_only_for_type_checkers():
    class Late(anx.Module):
        x: "Buffer[Array]"
        y: "roles.Param[Array]"

    found = message(anx.AnnotationError, lambda: Late(jnp.ones(1), jnp.ones(1)))
    assert (
        "Late.x: its role cannot be read: a name in the annotation does not exist" in found
    )
    assert "found:    'Buffer[Array]' without Buffer" in found
    assert "x: ... = annotax.field(role=annotax.Buffer)" in found

    class Twin(anx.Module):
        x: "Buffer[Array]" = anx.field(role=anx.Buffer)

    with pytest.warns(anx.AnnotationWarning, match="not checked: name 'Buffer' is not"):
        assert anx.params(Twin(jnp.ones(1))) == anx.params(None)


def test_unknown_names_of_plain_types_are_none_of_our_business():
    class Plain(anx.Module):
        x: "Sequence[int]"
        y: "Buffer"

    assert Plain(1, 2).x == 1

    class Nested(anx.Module):
        size: anx.Hyper[int]
        layer: "Layer"

    assert Nested(1, [Plain(1, 2), None, jnp.tanh]).size == 1

    class Usual(anx.Module):
        size: anx.Hyper[int]
        x: "Sequence[float]"
        y: "np.ndarray | Float[jnp.ndarray, 'n m']"

    assert Usual(1, [0.5], jnp.ones(1)).size == 1


def test_an_unreadable_annotation_over_data_is_warned_of_once():
    class Model(anx.Module):
        size: anx.Hyper[int]
        stat: "BatchStat[Array]"
        rate: "Rate"

    with pytest.warns(anx.AnnotationWarning) as caught:
        Model(1, [jnp.ones(1)], 0.5)
    assert [w.filename for w in caught] == [__file__] * 2
    assert str(caught[0].message) == (
        "Model.stat: its annotation cannot be read at run time, so it counts as a field "
        "without a role\n"
        "  expected: names that exist at run time\n"
        "  found:    'BatchStat[Array]'\n"
        "  fix:      import its names outside of TYPE_CHECKING; if it has a role, write "
        "the twin:\n"
        "            stat: ... = annotax.field(role=...)"
    )
    Model(1, [jnp.ones(1)], 0.5)


def test_a_name_that_annotax_does_not_have():
    found = message(anx.AnnotationError, lambda: make("anx.Bufer[Array]"))
    assert found.startswith("Model.x: annotax has no 'anx.Bufer'; did you mean 'Buffer'")


def test_a_role_as_default():
    found = message(anx.AnnotationError, lambda: make(Array, anx.Buffer))
    assert found == text(
        """
        Model.x: a role is no value
          expected: the role in the annotation
          found:    x: Array = Buffer
          fix:      x: Buffer[Array], or x: ... = annotax.field(role=Buffer)
        """
    )
    found = message(anx.AnnotationError, lambda: make("list[Array]", LoRA[Array]))
    assert "found:    x: list[Array] = lora[Array]\n" in found
    assert "fix:      x: lora[list[Array]], or" in found


def test_a_registered_class_whose_roles_cannot_be_read():
    class Foreign(eqx.Module):
        x: "Buffer[Array]"

    for action in (lambda: anx.register(Foreign), lambda: anx.params(Foreign(1.0))):
        assert "Foreign.x: " in message(anx.AnnotationError, action)


def test_an_abstract_role_that_comes_too_late():
    class Abstract(anx.Module):
        x: "eqx.AbstractVar[Buffer[Array]]"

    class Concrete(Abstract):
        x: Array

    found = message(anx.AnnotationError, lambda: Concrete(jnp.ones(1)))
    assert found.startswith("Abstract.x: its role cannot be read")


def test_registration():
    class Foreign(eqx.Module):
        weight: Array

    found = message(anx.FieldError, lambda: anx.register(Foreign, wieght=anx.Param))
    assert found == text(
        """
        Foreign.wieght: the class has no such field
          fix:      did you mean 'weight'?
        """
    )
    assert "there is: weight" in message(
        anx.FieldError, lambda: anx.register(Foreign, q=anx.Param)
    )

    class Static(eqx.Module):
        size: int = eqx.field(static=True)

    found = message(anx.AnnotationError, lambda: anx.register(Static, size=anx.Buffer))
    assert found.endswith(
        "  fix:      size=annotax.Hyper, or derive a class that annotates it anew"
    )
    found = message(anx.AnnotationError, lambda: anx.register(Foreign, weight=int))
    assert "role: this is not a role" in found
    assert message(anx.AnnotationError, lambda: anx.register(int)) == text(
        """
        register: this class has no fields to register
          expected: an equinox.Module or another dataclass
          found:    the class int
          fix:      give the role to the field that holds it
        """
    )

    class Ours(anx.Module):
        weight: Array

    found = message(anx.AnnotationError, lambda: anx.register(Ours, weight=anx.Param))
    assert found.startswith("Ours: an annotax module says itself what its fields are")


def test_roles():
    found = message(anx.AnnotationError, lambda: anx.Role("lora"))
    assert found == text(
        """
        Role('lora'): a role derives from another
          expected: parent=Param, parent=Buffer, parent=Hyper, or a role derived from one of
                    them
          found:    no parent
          fix:      Role('lora', parent=Param)
        """
    )
    for name, words in (("", "an empty string"), (None, "None"), (3, "an int")):
        found = message(anx.AnnotationError, lambda name=name: anx.Role(name))
        assert found.startswith("Role: a role needs a name\n")
        assert f"found:    {words}\n" in found
    assert "this is not a role" in message(
        anx.AnnotationError, lambda: anx.Role("x", parent=int)
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("lora", "'lora'"),
        (int, "the class int"),
        (list[anx.Param[Array]], "list[...]"),
        (jnp.ones(2), "an array float32[2]"),
    ],
)
def test_what_is_no_role(value, found):
    assert message(anx.AnnotationError, lambda: anx.by_role(value)) == text(
        f"""
        role: this is not a role
          expected: Param, Buffer, Hyper, a Role, or an alias Annotated[T, Role(...)]
          found:    {found}
          fix:      annotax.Param, or Role('lora', parent=annotax.Param)
        """
    )


def test_field_options():
    found = message(anx.AnnotationError, lambda: anx.field(tags="no_decay"))
    assert found == text(
        """
        field(tags=...): not a sequence of strings
          expected: tags=("first", "second")
          found:    'no_decay'
          fix:      tags=('no_decay',)
        """
    )
    assert "found:    a list of str, int" in message(
        anx.AnnotationError, lambda: anx.field(axes=["n", 1])
    )
    assert "found:    an int" in message(anx.AnnotationError, lambda: anx.field(tags=1))
    assert "found:    a tuple of NoneType" in message(
        anx.AnnotationError, lambda: anx.field(tags=(None,))
    )
    assert anx.field(axes=(None, "n")) is not None
    assert "this is not a role" in message(
        anx.AnnotationError, lambda: anx.field(role=Array)
    )


def test_hyper_messages():
    class Net(anx.Module):
        rate: anx.Hyper[Any]

    assert message(anx.HyperError, lambda: Net(jnp.ones((2, 3)))) == text(
        """
        Net.rate: an array cannot be a Hyper
          expected: a hashable Python value, part of the tree structure
          found:    an array float32[2,3]
          fix:      did you mean Buffer (an array that no gradient reaches) or Param? For a
                    number, pass float(...) or int(...) of it
        """
    )
    assert message(anx.HyperError, lambda: Net([1])) == text(
        """
        Net.rate: a mutable or unhashable value cannot be a Hyper
          expected: a hashable value: JAX keeps it in the tree structure
          found:    a list
          fix:      use a tuple
        """
    )
    assert message(anx.HyperError, lambda: Net(float("nan"))) == text(
        """
        Net.rate: a Hyper must equal itself, or every call compiles anew
          expected: a value with `value == value`
          found:    a float that is or holds one unequal to itself (a NaN?)
          fix:      use None for 'not given'
        """
    )


def test_long_listings_are_cut():
    model = {f"w{i:02}": jnp.ones(1) for i in range(30)}
    found = message(anx.SelectionError, lambda: anx.everything.expect(1)(model))
    assert "w11 and 18 more" in found
    wrong = jax.tree.map(lambda x: x[None], anx.params(model))
    assert "and 10 more" in message(anx.StructureError, lambda: anx.update(model, wrong))
