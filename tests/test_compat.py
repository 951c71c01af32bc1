"""What annotax takes from others without their promise: fails when one of them moves."""

import ast
import dataclasses
import inspect
import pathlib
import subprocess
import sys
import textwrap
import weakref
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, PyTree

import annotax
from annotax import _compat

SOURCE = pathlib.Path(annotax.__file__).parent


def test_concrete_arrays_have_one_class():
    assert (
        type(jnp.ones(1))
        is type(jax.random.split(jax.random.PRNGKey(0))[0])
        is _compat.ArrayImpl
    )
    assert _compat.ArrayImpl is not jax.Array
    jax.jit(lambda x: None if type(x) is not _compat.ArrayImpl else 1 / 0)(1.0)


def test_traced_arrays_can_be_referred_to_weakly():
    jax.jit(lambda x: weakref.ref(x)() is x or 1 / 0)(1.0)


def test_keys_whose_data_are_in_numpy():
    keys = jax.random.key(0)
    assert not _compat.wraps_numpy(keys)
    assert not _compat.wraps_numpy(jnp.ones(1))
    # Newer versions of JAX turn the data into an array of theirs.
    wrapped = jax.random.wrap_key_data(np.array([0, 1], np.uint32))
    assert _compat.wraps_numpy(wrapped) is not hasattr(wrapped._base_array, "is_deleted")


def test_the_metaclass_of_equinox():
    assert isinstance(eqx.Module, _compat.EquinoxMeta)
    assert issubclass(type(annotax.Module), _compat.EquinoxMeta)


def test_treedefs_tell_node_types_and_static_data():
    class Model(eqx.Module):
        x: int
        y: int = eqx.field(static=True)

    treedef = jax.tree.structure(Model(1, 2))
    kind, data = _compat.node_data(treedef)
    assert kind is Model
    assert 2 in data
    assert _compat.node_data(treedef.children()[0]) is None
    assert _compat.node_data(jax.tree.structure({"a": 1})) == (dict, ["a"])


def test_the_hash_of_a_treedef_covers_the_class_of_every_node():
    class One(eqx.Module):
        x: Any
        y: Any = eqx.field(static=True, default=0)

    class Two(eqx.Module):
        x: Any
        y: Any = eqx.field(static=True, default=0)

    def hashes(*trees):
        return len({hash(jax.tree.structure(tree)) for tree in trees})

    assert _compat.HASH_COVERS_NODES
    assert hashes(One(1), Two(1), One([1]), One((1,)), One(None), One([1, 2])) == 6
    assert hashes([One(1), Two(1)], [Two(1), One(1)]) == 2
    assert hashes(One(1, 1), One(1, 2)) == hashes({"a": 1}, {"b": 1}) == 1


def test_children_are_one_level_down():
    assert [child for _, child in _compat.children([1, [2, 3], None])] == [1, [2, 3], None]
    assert _compat.children(1) == []
    assert _compat.children(()) == []


def test_jaxtyping_hints():
    hint = Float[Array, "n m"]
    assert _compat.is_array_hint(hint)
    assert hint.dim_str == "n m"
    assert not _compat.is_array_hint(Array)
    assert _compat.is_array_dtype(Float)
    assert "float32" in _compat.dtype_names(Float[Array, ""])
    assert "int32" not in _compat.dtype_names(Float[Array, ""])
    assert not _compat.is_array_dtype(hint)
    assert _compat.pytree_leaf_hint(PyTree[int]) is int
    assert _compat.pytree_leaf_hint(PyTree) is None
    assert issubclass(hint, jaxtyping.AbstractArray)


def test_own_annotations_are_those_of_the_class_alone():
    class Base(eqx.Module):
        a: int

    class Sub(Base):
        b: int

    class Bare(Base):
        pass

    assert _compat.own_annotations(Sub) == {"b": int}
    assert _compat.own_annotations(Bare) == {}


def test_equinox_calls_converters_before_it_looks_at_static_fields():
    def convert(value):
        raise KeyError("first")

    class Model(eqx.Module):
        x: int = eqx.field(static=True, converter=convert)

    with pytest.raises(KeyError, match="first"):
        Model(jnp.ones(1))


def test_init_subclass_runs_before_equinox_makes_the_dataclass():
    class Base(eqx.Module):
        def __init_subclass__(cls, **kwargs):
            cls.x = eqx.field(static=True)

    class Sub(Base):
        x: int

    assert dataclasses.fields(Sub)[0].metadata["static"]


def test_a_checked_instance_has_nothing_extra():
    class Ours(annotax.Module):
        x: annotax.Buffer[float]
        y: annotax.Hyper[int]

    assert vars(Ours(1.0, 2)) == {"x": 1.0, "y": 2}
    assert {n for n in dir(annotax.Module) if not n.startswith("_")} == {
        n for n in dir(eqx.Module) if not n.startswith("_")
    }


# --- the house -----------------------------------------------------------------------

LAYERS = [
    {"_errors", "_compat", "_dims"},
    {"_role", "_path", "_axes", "_scope", "_buffer", "_hyper", "_text", "_unimported"}
    | {"_form"}
    | {"_mismatch", "_mode", "_inside", "_unchecked"},
    {"_source", "_leaves", "_static", "_hint_text", "_dependence", "_gradient_verdict"}
    | {"_mesh_rules", "_stored", "_plain", "_rename", "_array_check", "_misfits", "_quick"},
    {"_hint", "_held", "_probe", "_tensor_header", "_checks", "_beartype"},
    {"_field", "_derivatives", "_tensor_file", "_checker"},
    {"_registry", "_layout", "_arguments"},
    {"_specs", "_locate", "_targets", "_leaf_diff"},
    {"_resolve", "_settle", "_register", "_traverse", "_variant", "_node", "_findings"}
    | {"_class_checks"},
    {"_view", "_rules", "_plain_rules", "_check"},
    {"_records", "_selection", "_chain", "_compare", "_gradient_paths", "_named_axes"}
    | {"_methods", "_batch_axes", "_edit"},
    {"_select", "_labels", "_outline", "_outcome", "_manifest"},
    {"_flat", "_table", "_agreement", "_saving"},
    {"_split", "_fit", "_notebook", "_totals", "_loading"},
    {"_grad", "_freeze", "_adopt", "_change", "_carry", "_sharding"}
    | {"_checkpoint"}
    | {"_validate"},
    {"_summary", "_explain", "_diff", "_gradient_report", "_audit"},
    {"_module", "_equinox_nn"},
    {"__init__"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (name if name in LEVEL else "__init__" for name in names)


def test_imports_go_strictly_downward():
    files = {path.stem: path for path in SOURCE.glob("*.py")}
    assert set(files) == set(LEVEL)
    upward = [
        (name, imported)
        for name, path in files.items()
        for imported in imports(path)
        if LEVEL[imported] >= LEVEL[name]
    ]
    assert upward == []


def test_only_compat_touches_private_parts():
    for path in SOURCE.glob("*.py"):
        text = path.read_text()
        for word in (
            "jax._src",
            "equinox._",
            "eqx._",
            "jaxtyping._",
            "beartype._",
            "optax._",
        ):
            assert word not in text or path.stem == "_compat", (path.name, word)


def test_files_and_functions_stay_small():
    for path in SOURCE.glob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 310, path.name
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body:
                    assert body[-1].end_lineno - body[0].lineno < 60, (path.name, node.name)


def test_importing_annotax_imports_nothing_but_what_it_annotates_for():
    """Neither an extra nor optax nor beartype, and of Python only what JAX has loaded."""
    code = """
        import sys
        import equinox, jax.extend.core, jaxtyping, typing_extensions

        def new(before):
            found = {name for name in sys.modules if not name.startswith("annotax")}
            return sorted(found - before)

        before = set(sys.modules)
        import annotax
        print(new(before))
        for name in annotax.__all__:
            getattr(annotax, name)
        str(annotax.summary({}))
        print(set(new(before)) <= {"unicodedata", "secrets", "hmac"})
        print("optax" in sys.modules, "beartype" in sys.modules)
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["[]", "True", "False False"]


def test_features_are_imported_on_demand():
    code = """
        import sys, annotax
        ours = lambda: {n[8:] for n in sys.modules if n.startswith("annotax.")}
        before = ours()
        later = {"_layout", "_view", "_variant", "_check", "_methods"}
        print(*before & {*later, *annotax._FEATURES})
        annotax.diff({}, {})
        print({"_diff", "_view"} <= ours(), "_summary" in ours(), "summary" in dir(annotax))
        exec("from annotax import *")
        print(all(name in globals() for name in annotax.__all__))
        try:
            annotax.sumary
        except AttributeError as error:
            print(error)
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        "",
        "True False True",
        "True",
        "module 'annotax' has no attribute 'sumary'",
    ]


def test_every_public_name_is_documented():
    for name in annotax.__all__:
        thing = getattr(annotax, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name
            if inspect.isfunction(thing):
                assert ">>>" in thing.__doc__, name


# --- traced programs -----------------------------------------------------------------


def equation_names(fun):
    return [equation.primitive.name for equation in jax.make_jaxpr(fun)(1.0).jaxpr.eqns]


def test_the_names_of_the_primitives_that_carry_a_rule():
    forward, backward = jax.custom_jvp(jnp.sin), jax.custom_vjp(jnp.sin)
    forward.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    backward.defvjp(lambda x: (x, None), lambda _, ct: (ct,))
    assert [_compat.CUSTOM_RULES[x] for x in equation_names(forward)] == ["custom_jvp"]
    assert [_compat.CUSTOM_RULES[x] for x in equation_names(backward)] == ["custom_vjp"]
    assert equation_names(jax.lax.stop_gradient) == ["stop_gradient"]
    loops = [lambda x: jax.lax.map(jnp.sin, jnp.ones(3) * x)]
    loops += [lambda x: jax.lax.while_loop(lambda y: y < 0, lambda y: y, x)]
    loops += [lambda x: jax.lax.cond(x > 0, lambda: x, lambda: -x)]
    assert [equation_names(loop)[-1] for loop in loops] == ["scan", "while", "cond"]


def test_an_equation_is_a_function_of_its_variables():
    def program(x, y):
        return jax.lax.sort((x * x, y * 2.0))[1]

    traced = jax.make_jaxpr(program)(jnp.ones(2), jnp.array([4.0, 3.0])).jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(traced, [True])
    square, double, order = jaxpr.eqns
    taken, given, function = _compat.equation_function(jaxpr, square)
    assert taken == [jaxpr.invars[0]]
    assert given == square.outvars
    assert function(jnp.array([2.0, 3.0]))[0].tolist() == [4.0, 9.0]
    taken, _, function = _compat.equation_function(jaxpr, double)
    assert taken == [jaxpr.invars[1]]
    taken, given, function = _compat.equation_function(jaxpr, order)
    assert given == [v for v in order.outvars if not _compat.is_dropped(v)]
    assert [_compat.is_dropped(v) for v in order.outvars] == [
        str(v) == "_" for v in order.outvars
    ]
    result = function(jnp.array([2.0, 1.0]), jnp.array([4.0, 3.0]))
    assert result[-1].tolist() == [3.0, 4.0]


def test_operands_of_a_scan_are_counted():
    def program(w, carry, xs):
        def body(carry, x):
            return (carry[0] * x["u"] + w, carry[1] * w), x["v"]

        return jax.lax.scan(body, (carry, carry), {"u": xs, "v": xs})

    jaxpr = jax.make_jaxpr(program)(1.0, 1.0, jnp.ones(3)).jaxpr
    [scan] = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    assert _compat.scan_counts(scan.params) == (1, 2)
    assert len(scan.invars) == 5


def test_variables_of_mutable_arrays():
    make: Any = getattr(jax, "new_ref", None) or jax._src.core.mutable_array
    program = jax.make_jaxpr(lambda x: make(x)[...])(1.0).jaxpr
    assert [list(map(_compat.is_ref, eqn.outvars)) for eqn in program.eqns] == [
        [True],
        [False],
    ]


def test_where_an_equation_was_written():
    def program(x):
        return jnp.sin(x)

    equation = jax.make_jaxpr(lambda x: eqx.filter_jit(program)(x))(1.0).jaxpr.eqns[0]
    inner = equation.params["jaxpr"].jaxpr.eqns[0]
    line = program.__code__.co_firstlineno + 1
    assert _compat.equation_frames(inner)[0] == (__file__, line)
    assert _compat.equation_frames(object()) == []

    class Model(annotax.Module):
        x: annotax.Buffer[Any]

    stop = jax.make_jaxpr(lambda x: Model(x).x)(1.0).jaxpr.eqns[0]
    line = inspect.currentframe().f_lineno - 1
    frames = [frame for frame in _compat.equation_frames(stop) if "equinox" not in frame[0]]
    assert frames[0] == (__file__, line)

    def written(model):
        return eqx.tree_at(lambda m: m.x, model, model.x + 1).x

    stop = jax.make_jaxpr(written)(Model(jnp.ones(2))).jaxpr.eqns[-1]
    line = written.__code__.co_firstlineno + 1
    frames = _compat.equation_frames(stop)
    assert (__file__, line) in frames
    assert not any(file.startswith(("<string>", "<generated")) for file, _ in frames)


def test_the_frames_of_who_asks_for_a_report_are_not_those_of_the_program(monkeypatch):
    """Older versions of JAX keep them; newer ones begin where tracing began."""
    here = f"{SOURCE}/"
    files = ["<generated_unflatten_Q>", f"{here}_buffer.py", "<string>", "/my/model.py"]
    files += [f"{here}_gradient_paths.py", "/my/script.py"]
    frames = [
        SimpleNamespace(file_name=file, start_line=at) for at, file in enumerate(files)
    ]
    info = jax._src.source_info_util
    monkeypatch.setattr(info, "user_frames", lambda traceback: frames)
    equation = SimpleNamespace(source_info=SimpleNamespace(traceback=None))
    assert _compat.equation_frames(equation) == [("/my/model.py", 3)]
