"""`gradient_report`: what is dead, what leaks, and what it says of either."""

import json
import pickle
import re
from functools import partial
from operator import itemgetter

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.extend.core
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array, lax
from jax.interpreters import ad, partial_eval

import annotax as anx
from annotax import GradientError, SelectionError
from annotax._gradient_report import gradient_report

KEY = jax.random.key(0)
ONES = jnp.ones(3)
MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
SPEC = jax.sharding.PartitionSpec
HERE = __file__.rsplit("/", 1)[-1]

if hasattr(jax, "shard_map"):
    shard_map = jax.shard_map
else:  # until JAX 0.7
    from jax.experimental.shard_map import shard_map


def params(names, value=ONES):
    """A model without roles: every leaf is a Param."""
    return dict.fromkeys(names, value)


def dead(fn, names, *args, **kwargs):
    report = gradient_report(fn, params(names), *args, **kwargs)
    assert report.assumed == ()
    return report.dead


class Scale(anx.Module):
    weight: anx.Param[Array]
    mean: anx.Buffer[Array]

    def loss(self, x):
        return jnp.sum(self.weight * (x - self.mean))


class Foreign(eqx.Module):
    weight: Array
    mean: Array

    def __call__(self, x):
        return jnp.sum(self.weight * (x - self.mean))


anx.register(Foreign, weight=anx.Param, mean=anx.Buffer)


def call(model, x):
    return model(x)


# --- transformations -----------------------------------------------------------------


@jax.custom_vjp
def one_sided(x, y):
    return x * y


one_sided.defvjp(lambda x, y: (x * y, y), lambda y, ct: (ct * y, None))


@jax.custom_vjp
def zeroed(x, y):
    return x * y


zeroed.defvjp(lambda x, y: (x * y, y), lambda y, ct: (ct * y, jnp.zeros_like(y)))


@jax.custom_vjp
def made_up(x, y):
    return x * y


made_up.defvjp(lambda x, y: (x * y, x), lambda x, ct: (x, jnp.ones_like(x)))


@jax.custom_vjp
def counted_out(x, y):
    return x * y


ROW = np.array([1.0, 2.0, 3.0], np.float32)
counted_out.defvjp(
    lambda x, y: (x * y, None), lambda _, ct: (lax.iota(jnp.float32, 3), jnp.asarray(ROW))
)


@jax.custom_vjp
def apart(x, y):
    return x + 0, y + 0


apart.defvjp(lambda x, y: ((x, y), None), lambda _, cts: cts)


@jax.custom_jvp
def straight_through(x):
    return jnp.round(x)


straight_through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


@jax.custom_jvp
def product(x, y):
    return x * y


@product.defjvp
def _(primals, tangents):
    return primals[0] * primals[1], tangents[0] * primals[1]


def integer_tangents(model):
    def both(x):
        return x, x.astype(int)

    x = model["a"]
    return jax.jvp(jax.jit(both), (x,), (x,))[1][0]


def step(model, carry, x):
    return carry * model["a"] + x, lax.stop_gradient(model["b"]) * x


def scanned(model, x):
    carry, rows = lax.scan(partial(step, model), ONES, jnp.ones((4, 3)))
    return jnp.sum(carry + model["c"]) + jnp.sum(rows) + x.sum()


def shuffled(model):
    """What is in the second carry reaches the first only after another iteration."""

    def body(carry, _):
        return (carry[1], carry[2] * model["d"], carry[2]), None

    carry = (model["a"], model["b"], model["c"])
    return lax.scan(body, carry, None, length=5)[0][0]


def untouched(model):
    def body(carry, x):
        return carry * model["b"], x

    return lax.scan(body, model["a"], model["c"][:0])[0]


def while_loop(model):
    def body(state):
        return state[0] + 1, state[1] * model["a"], state[2]

    def more(state):
        return jnp.sum(state[2] + model["d"]) > state[0]

    return lax.while_loop(more, body, (0.0, model["b"], model["c"]))[1]


def branches(model):
    index = jnp.argmax(model["i"])
    return lax.switch(
        index,
        [lambda: model["a"], lambda: jnp.sign(model["b"]), lambda: model["c"] * 2],
    )


def through_mesh(model):
    def body(a, b, c):
        return lax.psum(a * lax.axis_index("i"), "i") + lax.psum(jnp.sign(b), "i") + c

    specs = (SPEC("i"), SPEC(), SPEC())
    mapped = shard_map(body, mesh=MESH, in_specs=specs, out_specs=SPEC())
    return mapped(model["a"][:1], model["b"], lax.stop_gradient(model["c"]))


def mapped(model):
    program = jax.pmap(lambda a, b: lax.psum(a, "i") + jnp.sign(b), axis_name="i")
    return program(model["a"][None], model["b"][None])


def abstract_mesh():
    try:
        # Not explicit, which newer versions make of it.
        types = {"axis_types": (jax.sharding.AxisType.Auto,)}
        return jax.sharding.AbstractMesh((2,), ("i",), **types)
    except (AttributeError, TypeError):  # until JAX 0.6
        return jax.sharding.AbstractMesh((("i", 2),))


def on_two_devices(model):
    def body(a, b, c):
        return a * 1, lax.psum(b, "i"), c * 1

    specs = {"in_specs": SPEC("i"), "out_specs": (SPEC("i"), SPEC(), SPEC("i"))}
    program = shard_map(body, mesh=abstract_mesh(), **specs)
    a, b, _ = program(*(jnp.stack([model[name]] * 2) for name in "abc"))
    return a, jnp.sign(b)


def reduced(model):
    def body(x, y):
        return y[1], x[1] * y[1]

    return lax.reduce((model["a"], model["b"]), (0.0, 0.0), body, (0,))[0]


def gathered(model):
    def body(a, b):
        row = lax.all_gather(a, "i").sum(0) + lax.ppermute(a, "i", [(0, 0)])
        return lax.scan(lambda c, _: (c + lax.psum(row, "i"), b), a, None, length=2)[0]

    mapped = shard_map(body, mesh=MESH, in_specs=SPEC("i"), out_specs=SPEC("i"))
    return mapped(model["a"], model["b"])


PROGRAMS = {
    "jit": (lambda m: jax.jit(lambda m: m["a"] + jnp.floor(m["b"]))(m), "abc", "bc"),
    "scan": (lambda m: scanned(m, m["d"]), "abcde", "be"),
    "scan, shuffled": (shuffled, "abcd", "a"),
    "scan of nothing": (untouched, "abc", "bc"),
    "while": (while_loop, "abcd", "cd"),
    "cond": (branches, "abcdi", "bdi"),
    "checkpoint": (jax.checkpoint(lambda m: jnp.sin(m["a"]) + jnp.sign(m["b"])), "ab", "b"),
    "custom_jvp": (lambda m: product(m["a"], m["b"]), "ab", "b"),
    "straight through": (lambda m: straight_through(m["a"]) + jnp.round(m["b"]), "ab", "b"),
    "custom_vjp": (lambda m: one_sided(m["a"], m["b"]), "ab", "b"),
    "custom_vjp, zeros": (lambda m: zeroed(m["a"], m["b"]), "ab", "b"),
    "custom_vjp, made up": (lambda m: made_up(m["a"], m["b"]), "abc", "c"),
    "custom_vjp, constants": (lambda m: counted_out(m["a"], m["b"]), "abc", "c"),
    "custom_vjp, apart": (lambda m: apart(m["a"], m["b"])[1], "ab", "a"),
    "vmap": (
        jax.vmap(lambda m: one_sided(jnp.sin(m["a"]), product(m["b"], m["c"]))),
        "abc",
        "bc",
    ),
    "shard_map": (through_mesh, "abc", "bc"),
    "shard_map, two devices": (on_two_devices, "abc", "bc"),
    "pmap": (mapped, "ab", "b"),
    "reduce": (reduced, "ab", "a"),
    "integer tangents": (integer_tangents, "ab", "b"),
    "collectives": (gathered, "ab", "b"),
    "eqx.filter_jit": (eqx.filter_jit(lambda m: m["a"] + m["b"].astype(int)), "ab", "b"),
    "jax.grad": (
        jax.grad(lambda m: jnp.sum(m["a"] * m["b"] + m["c"] + jnp.sin(m["d"]))),
        "abcd",
        "c",
    ),
    "same twice": (lambda m: m["a"] * m["a"] + one_sided(m["b"], m["b"]), "ab", ""),
    "where": (lambda m: jnp.where(m["a"] > 0, m["b"], m["c"]), "abc", "a"),
    "argsort": (lambda m: m["a"][jnp.argsort(m["b"])], "ab", "b"),
    "other outputs": (
        lambda m: lax.sort((m["a"], m["b"]))[0] + lax.sort((m["a"], m["b"]))[1],
        "ab",
        "",
    ),
    "softmax": (lambda m: jax.nn.log_softmax(m["a"]) + m["b"].max(), "ab", ""),
    "half precision": (lambda m: m["a"].astype(jnp.bfloat16), "a", ""),
    "zero": (lambda m: m["a"] * 0.0, "a", ""),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_transformations(name):
    program, names, expected = PROGRAMS[name]
    assert dead(program, names) == tuple(expected)
    outer = {
        "jit": jax.jit(program),
        "checkpoint": jax.checkpoint(program),
        "scan": lambda m: lax.scan(lambda c, _: (c, program(m)), 0, None, length=2)[1],
        "cond": lambda m: lax.cond(m["a"][0] > 0, program, program, m),
        "custom_jvp": lambda m: jax.custom_jvp(lambda x: x)(jax.jit(program)(m)),
    }
    assert dead(outer["jit"], names) == tuple(expected)
    assert dead(outer["checkpoint"], names) == tuple(expected)
    assert dead(outer["scan"], names) == tuple(expected)
    assert dead(outer["cond"], names) == tuple(expected)


def test_mutable_arrays():
    new_ref = getattr(jax, "new_ref", None)
    if new_ref is None:  # until JAX 0.7
        pytest.skip("mutable arrays are not public in this version of JAX")

    def program(m):
        total, other = new_ref(m["a"] * 0), new_ref(m["e"])

        def body(carry, _):
            total[...] = total[...] + m["b"] * carry
            other[...] = jnp.round(m["c"])
            return carry * m["d"], None

        lax.scan(body, ONES, None, length=3)
        jax.jit(lambda: total.__setitem__(..., total[...] + m["f"]))()
        return jnp.sum(total[...])

    assert dead(program, "abcdefg") == ("c", "e", "g")


def test_a_model_of_another_argument_is_its_own():
    def loss(model, teacher, *, scale):
        return jnp.sum(model["a"] * teacher.weight * scale["a"])

    report = gradient_report(loss, params("a"), Scale(ONES, ONES), scale=params("a"))
    assert report.ok
    assert report.selected == ("a",)


def test_keywords_named_as_ours_reach_the_function():
    def loss(m, *, fn, model):
        return m["a"] * fn * model

    assert gradient_report(loss, params("a"), fn=ONES, model=2.0).ok


# --- other libraries -----------------------------------------------------------------


class Solve(anx.Module):
    matrix: anx.Param[Array]
    vector: anx.Buffer[Array]
    unused: anx.Param[Array]


SOLVE = Solve(2 * jnp.eye(3), ONES, ONES)


def test_an_ode():
    def loss(model, y, adjoint):
        term = dfx.ODETerm(lambda t, y, args: args(y))
        control = dfx.PIDController(1e-3, 1e-3)
        options = {"adjoint": adjoint, "stepsize_controller": control}
        sol = dfx.diffeqsolve(term, dfx.Tsit5(), 0.0, 1.0, 0.1, y, args=model, **options)
        return jnp.sum(sol.ys**2)

    model = eqx.nn.MLP(3, 3, 4, 2, key=KEY)
    for adjoint in (
        dfx.RecursiveCheckpointAdjoint(),
        dfx.DirectAdjoint(),
        dfx.ForwardMode(),
    ):
        report = gradient_report(loss, model, ONES, adjoint)
        assert (report.ok, len(report.selected), report.assumed) == (True, 6, ())
        assert report.through_while == isinstance(adjoint, dfx.ForwardMode)


@pytest.mark.parametrize("solver", [lx.LU(), lx.QR(), lx.GMRES(1e-3, 1e-3)])
def test_a_linear_solve(solver):
    def loss(model):
        operator = lx.MatrixLinearOperator(model.matrix)
        return lx.linear_solve(operator, model.vector, solver).value

    report = gradient_report(loss, SOLVE)
    assert (report.dead, report.leaking, report.assumed) == (("unused",), (), ())


@pytest.mark.parametrize(
    "find",
    [
        lambda m: optx.root_find(
            lambda y, m: m.matrix @ y**3 + y - m.vector, optx.Newton(1e-3, 1e-3), ONES, m
        ),
        lambda m: optx.minimise(
            lambda y, m: jnp.sum((m.matrix @ y - m.vector) ** 2),
            optx.BFGS(1e-3, 1e-3),
            ONES,
            m,
        ),
    ],
)
def test_an_implicit_solve(find):
    report = gradient_report(lambda m: find(m).value, SOLVE)
    assert report.reasons == {"unused": "unused"}
    assert (report.leaking, report.assumed) == ((), ())


def test_batch_norm_leaks_until_it_is_adopted():
    def loss(model, x):
        state = eqx.nn.State(model)
        model = anx.inference_mode(model)
        axes = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}
        return jnp.sum(jax.vmap(model, **axes)(x, state)[0])

    model = eqx.nn.BatchNorm(3, axis_name="batch", mode="ema")
    report = gradient_report(loss, model, jnp.ones((4, 3)))
    assert report.dead == ()
    assert report.leaking == ("ema_state_index.init.0", "ema_state_index.init.1")
    assert report.integer == ("ema_first_time_index.init",)
    adopted = gradient_report(loss, anx.adopt(model), jnp.ones((4, 3))).check()
    assert adopted.guarded == report.leaking


# --- roles ---------------------------------------------------------------------------


def test_registered_buffers_leak_until_they_are_adopted():
    model = Foreign(ONES, ONES)
    report = gradient_report(call, model, ONES)
    assert (report.dead, report.leaking) == ((), ("mean",))
    assert report.reasons == {"mean": "a Buffer by registration alone"}
    adopted = gradient_report(call, anx.adopt(model), ONES)
    assert (adopted.ok, adopted.guarded) == (True, ("mean",))


def test_buffers_of_ours_do_not_leak_inside_a_foreign_container():
    report = gradient_report(
        lambda m, x: m[0].loss(x) + m[1](x), [Scale(ONES, ONES), Foreign(ONES, ONES)], ONES
    )
    assert report.leaking == ("1.mean",)
    assert report.guarded == ("0.mean", "1.mean")


def test_frozen_leaves_are_guarded_and_do_not_leak():
    model = anx.freeze([Scale(ONES, ONES), Scale(ONES, ONES)], anx.by_path("0.weight"))

    def loss(m, x):
        return m[0].loss(x) + m[1].loss(x)

    report = gradient_report(loss, model, ONES)
    assert report.ok
    assert report.guarded == ("0.weight", "0.mean", "1.mean")
    chosen = gradient_report(loss, model, ONES, wrt=anx.everything)
    assert chosen.guarded == ()
    assert chosen.reasons == {
        "0.weight": "frozen",
        "0.mean": "a Buffer, whose field stops gradients",
        "1.mean": "a Buffer, whose field stops gradients",
    }


def test_what_is_selected_does_not_leak():
    report = gradient_report(call, Foreign(ONES, ONES), ONES, wrt=anx.everything)
    assert (report.ok, report.guarded) == (True, ())
    unused = gradient_report(
        lambda m: m.weight, Foreign(ONES, ONES), wrt=anx.by_role(anx.Buffer)
    )
    assert unused.reasons == {"mean": "unused"}


def test_a_param_that_is_not_selected_is_neither():
    report = gradient_report(lambda m: m["a"], params("abc"), wrt=anx.by_path("a"))
    assert (report.selected, report.dead, report.guarded) == (("a",), (), ())


def test_loose_buffers():
    model = anx.leaves(Foreign(ONES, ONES), anx.everything)
    report = gradient_report(lambda m: m["weight"] * m["mean"], model)
    assert report.reasons == {"mean": "a Buffer that stands in no module"}


def test_integers_and_undeclared_leaves():
    model = {"a": ONES, "n": jnp.arange(3), "key": KEY, "b": True, "s": np.array(["x"])}
    model |= {"m": Scale(ONES, jnp.arange(3)), "f": 1.5, "d": np.array(["2020"], "M8[Y]")}

    def loss(m):
        assert isinstance(m["f"], float)
        assert isinstance(m["s"], np.ndarray)
        return m["a"] * m["n"] * m["f"] + m["m"].weight + jax.random.normal(m["key"], (3,))

    report = gradient_report(loss, model)
    assert report.ok
    assert report.integer == ("d", "key", "m.mean", "n", "s")
    assert report.integer_params == ()
    assert "integer" not in str(report)
    chosen = gradient_report(loss, model, wrt=anx.by_path("a") | anx.by_path("n"))
    assert chosen.integer_params == ("n",)
    assert report.undeclared == ("a",)
    assert report.guarded == ()


def test_integers_that_are_params_are_shown():
    model = [Scale(jnp.arange(3), ONES), Scale(ONES, jnp.arange(3))]
    report = gradient_report(lambda m: m[0].loss(ONES) + m[1].loss(ONES), model)
    assert (report.integer, report.integer_params) == (
        ("0.weight", "1.mean"),
        ("0.weight",),
    )
    assert str(report) == (
        "<lambda>: ok. 1 leaf with a gradient, 1 rightly without.\n"
        "  integer: a Param or selected, and no gradient by its dtype\n"
        "    0.weight"
    )


# --- why a Param is dead -------------------------------------------------------------


def test_unused_and_without_a_derivative():
    def loss(m):
        jax.debug.print("{}", m["d"])
        picked = lax.cond(m["c"][0] > 0, lambda x: x, lambda x: -x, m["a"])
        return picked * jnp.sign(m["b"]) + (m["a"] > m["e"])

    none = "no derivative: only through comparisons, integers or rounding"
    report = gradient_report(loss, params("abcde"))
    assert report.reasons == {"b": none, "c": none, "d": "unused", "e": none}


def test_a_cut_names_its_line():
    def loss(m):
        stopped = lax.stop_gradient(m["b"])
        cut = one_sided(m["a"], m["c"])
        both = lax.stop_gradient(m["d"]) + lax.stop_gradient(m["d"])
        lax.stop_gradient(m["e"])
        return stopped * cut + m["a"] * both + lax.stop_gradient(m["a"])

    first = loss.__code__.co_firstlineno + 1
    assert gradient_report(loss, params("abcde")).reasons == {
        "b": f"cut by stop_gradient at {HERE}:{first}",
        "c": f"cut by custom_vjp at {HERE}:{first + 1}",
        "d": f"cut by stop_gradient at {HERE}:{first + 2}",
        "e": "unused",
    }


def test_a_cut_inside_loops_and_calls_is_found():
    def loss(m):
        def body(carry, _):
            return jax.jit(lambda c: c * m["a"] + lax.stop_gradient(c))(carry), None

        once = lax.scan(body, lax.stop_gradient(m["b"]), None, length=3)[0]
        return jax.checkpoint(lambda x: product(x, lax.stop_gradient(m["c"])))(once)

    reasons = gradient_report(loss, params("abc")).reasons
    assert set(reasons) == {"b", "c"}
    assert all(re.fullmatch(rf"cut by .* at {HERE}:\d+", reasons[x]) for x in "bc")


def test_a_cut_on_entering_a_buffer_is_the_line_that_makes_the_module():
    def loss(m):
        return Scale(m["a"], m["b"]).loss(ONES)

    report = gradient_report(loss, params("ab"))
    line = loss.__code__.co_firstlineno + 1
    assert report.reasons == {"b": f"cut by stop_gradient at {HERE}:{line}"}


def test_a_cut_in_generated_code_is_the_line_that_calls_for_it():
    def loss(m):
        m = eqx.tree_at(lambda scale: scale.mean, m, m.weight * 2)
        return m.mean.sum()

    report = gradient_report(loss, Scale(ONES, ONES))
    line = loss.__code__.co_firstlineno + 1
    assert report.reasons == {"weight": f"cut by stop_gradient at {HERE}:{line}"}


def test_a_cut_in_a_library_is_the_line_that_calls_the_library():
    def loss(m):
        return eqxi.nondifferentiable_backward(m["a"]) + library()(m["b"])

    report = gradient_report(loss, params("ab"))
    line = loss.__code__.co_firstlineno + 1
    assert report.reasons["b"] == f"cut by stop_gradient at {HERE}:{line}"


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_a_cut_that_only_a_library_knows_of_is_named_from_its_package(folder):
    report = gradient_report(library(folder), params("a"))
    assert report.reasons == {"a": "cut by stop_gradient at layers/_stop.py:3"}


def library(folder="site-packages"):
    """A function of an installed package."""
    source = "def stop(x):\n    from jax import lax\n    return lax.stop_gradient(x)\n"
    space = {}
    exec(compile(source, f"/lib/{folder}/layers/_stop.py", "exec"), space)
    return space["stop"]


def test_many_cuts_are_counted():
    def loss(m):
        return [
            lax.stop_gradient(m["a"]),
            lax.stop_gradient(m["a"]),
            lax.stop_gradient(m["a"]),
            lax.stop_gradient(m["a"]),
            lax.stop_gradient(m["a"]),
        ]

    first = loss.__code__.co_firstlineno + 2
    places = [f"stop_gradient at {HERE}:{first + i}" for i in range(3)]
    expected = f"cut by {', '.join(places)} and 2 more"
    assert gradient_report(loss, params("a")).reasons == {"a": expected}


def test_only_the_cut_that_matters_is_named():
    def loss(m, x):
        _, second = jnp.split(m["a"], [1])
        lax.stop_gradient(second)
        return lax.stop_gradient(m["a"]) * x

    line = loss.__code__.co_firstlineno + 3
    assert gradient_report(loss, params("a"), ONES).reasons == {
        "a": f"cut by stop_gradient at {HERE}:{line}"
    }


def test_only_in_the_auxiliary_output():
    def loss(m):
        return jnp.sum(m["a"]), {"b": m["b"], "n": 1, "text": "aux", "a": m["a"]}

    report = gradient_report(loss, params("abc"), has_aux=True)
    assert report.reasons == {"b": "only in the auxiliary output", "c": "unused"}


def test_what_decides_on_a_loop_is_used():
    none = "no derivative: only through comparisons, integers or rounding"
    assert gradient_report(while_loop, params("abcde")).reasons == {
        "c": none,
        "d": none,
        "e": "unused",
    }


def test_a_cut_that_jax_wrote_is_at_the_call_of_it():
    def loss(m):
        return jax.jit(one_sided)(m["a"], m["b"])

    line = loss.__code__.co_firstlineno + 1
    reason = f"cut by custom_vjp at {HERE}:{line}"
    assert gradient_report(loss, params("ab")).reasons == {"b": reason}


def test_all_inexact_outputs_count():
    def loss(m):
        shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        text = {"f": max, "c": 1.0, "s": shape, "numpy": np.ones(3)}
        return {"a": m["a"].astype(jnp.complex64), "n": m["b"].astype(int), **text}

    assert dead(loss, "ab") == ("b",)
    assert dead(lambda m: 1.0, "ab") == ("a", "b")
    assert dead(lambda m: np.ones(3), "ab") == ("a", "b")


def test_a_cut_in_a_function_that_is_called_twice():
    stop = jax.jit(lambda x: lax.stop_gradient(x))
    reasons = gradient_report(lambda m: stop(m["a"]) + stop(m["b"]), params("ab")).reasons
    assert set(reasons) == {"a", "b"}
    assert len(set(reasons.values())) == 1
    assert reasons["a"].startswith(f"cut by stop_gradient at {HERE}:")


# --- tracing -------------------------------------------------------------------------


def test_it_is_traced_once_and_nothing_is_computed():
    traced = []

    def refuse(x):
        raise AssertionError("computed")

    def loss(model, x):
        traced.append(model)
        jax.debug.callback(refuse, x)
        return jnp.sum(model.weight @ model.weight.T) * jnp.sum(x)

    huge = jax.ShapeDtypeStruct((10**7, 10**7), jnp.float32)
    model = Scale(huge, huge)
    report = gradient_report(loss, model, jax.ShapeDtypeStruct((10**9,), jnp.float32))
    assert report.ok
    assert len(traced) == 1
    assert isinstance(traced[0].weight, jax.core.Tracer)


def test_weak_types_reach_the_function():
    weak = jnp.asarray(1.0) * 1
    weak = jax.jit(lambda: 1.0)()
    assert weak.weak_type

    def loss(m, x):
        assert m["a"].weak_type
        assert x.weak_type
        return m["a"] * x

    assert gradient_report(loss, {"a": weak}, weak).ok


def test_abstract_models():
    model = eqx.filter_eval_shape(lambda: eqx.nn.MLP(2, 2, 2, 1, key=KEY))
    x = jax.ShapeDtypeStruct((2,), jnp.float32)
    assert gradient_report(call, model, x).selected[0] == "layers.0.weight"


def test_bound_methods_and_partials():
    class Loss(eqx.Module):
        scale: Array

        def loss(self, model, x):
            return jnp.sum(self.scale * model.weight * x)

    report = gradient_report(Loss(ONES).loss, Scale(ONES, ONES), ONES)
    assert (report.function, report.ok) == ("Loss.loss", True)
    report = gradient_report(partial(Loss(ONES).loss, x=ONES), Scale(ONES, ONES))
    assert (report.function, report.ok) == ("Loss.loss", True)


class Trainer:
    def loss(self, model):
        return model["a"]

    @classmethod
    def shared(cls, model):
        return model["a"]

    def __call__(self, model):
        return model["a"]


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (Trainer().loss, "Trainer.loss"),
        (Trainer.shared, "Trainer.shared"),
        (Trainer(), "Trainer"),
        (partial(partial(Trainer().loss)), "Trainer.loss"),
        (eqx.Partial(Trainer()), "Trainer"),
        (jax.jit(Trainer().loss), "Trainer.loss"),
        (itemgetter("a"), "itemgetter"),
    ],
)
def test_functions_have_the_names_that_users_gave_them(fn, name):
    assert gradient_report(fn, params("a")).function == name


def test_inside_a_transformation():
    @jax.jit
    def step(model, x):
        gradient_report(call, model, x, wrt=anx.everything).check()
        return model(x)

    assert step(Foreign(ONES, ONES), 2 * ONES) == 3.0


def test_named_axes_of_sharded_arrays():
    axis_type = getattr(jax.sharding, "AxisType", None)
    if axis_type is None or not hasattr(jax, "set_mesh"):
        pytest.skip("no explicit sharding in this version of JAX")
    mesh = jax.make_mesh((1,), ("i",), axis_types=(axis_type.Explicit,))
    with jax.set_mesh(mesh):
        w = jax.device_put(jnp.ones((4, 4)), SPEC("i", None))

        def loss(m, x):
            assert jax.typeof(m["a"]).sharding.spec == SPEC("i", None)
            return jnp.sum(jax.nn.relu(x @ m["a"])) + jnp.sign(m["b"]).sum()

        report = gradient_report(loss, params("ab", w), w)
    assert (report.dead, report.assumed) == (("b",), ())


# --- what JAX cannot differentiate ---------------------------------------------------


def test_what_jax_cannot_differentiate_is_named():
    def loss(m):
        shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        return jax.pure_callback(lambda x: x, shape, m["a"] * m["b"] + jnp.sign(m["c"]))

    report = gradient_report(loss, params("abc"))
    assert (report.dead, report.assumed) == (("c",), ("pure_callback",))


def test_what_gets_no_gradient_is_not_asked_about():
    def loss(m):
        shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        given = jnp.sign(m["a"]), lax.stop_gradient(m["b"])
        return jax.pure_callback(lambda x, y: x, shape, *given)

    report = gradient_report(loss, params("ab"))
    assert (report.dead, report.assumed) == (("a", "b"), ())
    assert report.reasons["b"].startswith("cut by stop_gradient")


@jax.custom_jvp
def refuses(x):
    return x


@refuses.defjvp
def _(primals, tangents):
    raise ValueError(f"no rule for this, {'and a long story ' * 4}\nand more of it")


def test_a_rule_that_raises_is_no_derivative():
    @jax.custom_jvp
    def silent(x):
        return x

    @silent.defjvp
    def _(primals, tangents):
        raise NotImplementedError

    report = gradient_report(lambda m: silent(m["a"]), params("ab"))
    assert (report.dead, report.assumed) == (("b",), ("custom_jvp_call",))
    assert report.refusals == {"custom_jvp_call": "NotImplementedError"}


@pytest.mark.parametrize(
    "fn",
    [
        lambda m: jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((3,), "f4"), m["a"]),
        lambda m: jax.vmap(lambda x: lax.pmax(x, "i"), axis_name="i")(m["a"]),
        lambda m: eqxi.nondifferentiable(m["a"]),
        lambda m: jax.scipy.special.betainc(m["a"], 1.0, 0.5),
        lambda m: lax.nextafter(m["a"], ONES),
    ],
)
def test_what_is_refused_is_what_jax_refuses(fn):
    try:
        jax.grad(lambda m: jnp.sum(fn(m)))(params("a"))
        refused = False
    except Exception:
        refused = True
    report = gradient_report(fn, params("a"))
    assert bool(report.refused) == refused
    assert report.refused == tuple(report.refusals) == report.assumed


def test_inside_a_custom_rule_nothing_is_differentiated():
    @jax.custom_jvp
    def above(x):
        return lax.nextafter(x, x + 1) + lax.stop_gradient(x)

    above.defjvp(lambda primals, tangents: (above(*primals), tangents[0]))
    both = jax.custom_vjp(lambda x, y: lax.nextafter(x, y))
    both.defvjp(lambda x, y: (x, None), lambda _, ct: (ct, jnp.zeros_like(ct)))
    assert dead(lambda m: above(m["a"]) + both(m["b"], m["c"]), "abcd") == ("c", "d")


# --- loops that jax.grad refuses -----------------------------------------------------


def looped_once(x, scale=1.0):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * scale), (0, x))[1]


def has_small(state):
    return jnp.min(state[1]) < 3


def both_grow(state):
    return state[0] * 2, state[1] * 2


@pytest.mark.parametrize(
    "fn",
    [
        lambda m: looped_once(m["a"]),
        lambda m: looped_once(ONES, m["a"]),
        lambda m: jax.jit(lambda a: looped_once(jnp.sin(a)) * 2)(m["a"]),
        lambda m: lax.scan(lambda c, _: (looped_once(c), None), m["a"], None, length=2)[0],
        lambda m: looped_once(lax.stop_gradient(m["b"])) + m["a"],
        lambda m: lax.stop_gradient(looped_once(m["b"])) + m["a"],
        lambda m: lax.fori_loop(0, 3, lambda _, x: x * m["a"], m["a"]),
        lambda m: lax.fori_loop(0, m["n"], lambda _, x: x * m["a"], m["a"]),
        lambda m: m["a"] * lax.while_loop(lambda n: n < 3, lambda n: n + 1, m["n"]),
        lambda m: m["a"] * lax.while_loop(has_small, both_grow, (m["a"], ONES))[1],
    ],
)
def test_loops_that_jax_refuses_are_noted(fn):
    model = params("ab") | {"n": jnp.array(2)}
    try:
        jax.jit(jax.grad(lambda ab, m: jnp.sum(fn(m | ab))))(params("ab"), model)
        refused = False
    except ValueError:
        refused = True
    report = gradient_report(fn, model, wrt=anx.by_path("a"))
    note = "\n  passes a while_loop: jax.grad refuses it, jax.jvp does not"
    assert report.through_while == refused == report.to_dict()["through_while"]
    assert str(report).endswith(note) == refused
    assert not gradient_report(fn, model, wrt=anx.by_path("b")).through_while


def test_primitives_that_nobody_knows_are_asked_as_any_other():
    known = jax.extend.core.Primitive("known")
    unknown = jax.extend.core.Primitive("unknown")
    for primitive in (known, unknown):
        primitive.def_abstract_eval(lambda x, y, **_: x)
    ad.primitive_jvps[known] = lambda primals, tangents, which: (
        known.bind(*primals, which=which),
        tangents[which],
    )

    def loss(m):
        same = known.bind(m["a"], m["a"], which=0)
        first = known.bind(m["b"], m["c"], which=0)
        return same + first + known.bind(m["d"], m["e"], which=1)

    report = gradient_report(loss, params("abcde"))
    assert (report.dead, report.assumed) == (("c", "d"), ())
    report = gradient_report(lambda m: unknown.bind(m["a"], m["b"]), params("ab"))
    assert (report.dead, report.assumed) == ((), ("unknown",))


def test_a_primitive_with_two_programs_is_asked_as_a_whole():
    either = jax.extend.core.Primitive("either")
    either.def_abstract_eval(lambda x, y, **_: x)
    ad.primitive_jvps[either] = lambda primals, tangents, **programs: (
        either.bind(*primals, **programs),
        tangents[1],
    )
    one = jax.make_jaxpr(lambda x, y: x)(ONES, ONES)
    two = jax.make_jaxpr(lambda x, y: y)(ONES, ONES)
    assert dead(lambda m: either.bind(m["a"], m["b"], one=one, two=two), "ab") == ("a",)


def test_integers_carry_no_gradient_past_what_jax_cannot_differentiate():
    def loss(m):
        shapes = jax.ShapeDtypeStruct((3,), "f4"), jax.ShapeDtypeStruct((3,), "i4")
        return jax.pure_callback(lambda x: (x, x), shapes, m["a"])[1] * m["b"]

    report = gradient_report(loss, params("ab"))
    assert (report.dead, report.assumed) == (("a",), ("pure_callback",))


# --- the report ----------------------------------------------------------------------


def mixed(model, x):
    return model["foreign"](x) + lax.stop_gradient(model["stopped"]).sum()


def mixed_report():
    shapes = {"foreign": Foreign(ONES, ONES), "stopped": ONES, "n": jnp.arange(2)}
    return gradient_report(mixed, {**shapes, "w": [ONES] * 15}, ONES)


def test_the_text():
    line = mixed.__code__.co_firstlineno + 1
    unused = "\n".join(f"    w.{i}: unused" for i in range(11))
    names = "\n".join(f"    w.{i}" for i in range(11))
    assert (
        str(mixed_report())
        == repr(mixed_report())
        == (
            "mixed: 16 of 17 leaves dead, 1 of 1 leaking.\n"
            "  dead: selected, and no gradient reaches it\n"
            f"    stopped: cut by stop_gradient at {HERE}:{line}\n"
            f"{unused}\n"
            "    and 4 more\n"
            "  leaking: a gradient where none belongs\n"
            "    foreign.mean: a Buffer by registration alone\n"
            "  undeclared: a Param by convention alone\n"
            "    stopped\n"
            f"{names}\n"
            "    and 4 more"
        )
    )


def test_the_text_when_all_is_well():
    report = gradient_report(Scale.loss, Scale(ONES, ONES), ONES)
    assert str(report) == "loss: ok. 1 leaf with a gradient, 1 rightly without."
    assert report.ok
    assert bool(report)
    assert report.check() is report


def refused_loss(m, x):
    return jnp.sum(refuses(m.weight) + m.mean)


def test_the_text_names_what_cannot_be_differentiated():
    report = gradient_report(refused_loss, Scale(ONES, ONES), ONES)
    assert str(report) == (
        "refused_loss: 0 of 1 leaf dead, 0 of 1 leaking, and jax.grad refuses it.\n"
        "  cannot be differentiated: jax.grad raises\n"
        f"    custom_jvp_call: no rule for this, {'and a long story ' * 2}and a …"
    )
    assert max(map(len, str(report).splitlines())) == 80
    report = gradient_report(lambda m: m.weight * refuses(m.mean), Foreign(ONES, ONES))
    assert str(report).endswith(
        "  cannot be differentiated, and no selected leaf goes into it\n"
        f"    custom_jvp_call: no rule for this, {'and a long story ' * 2}and a …"
    )


def test_check_refuses_what_jax_refuses():
    report = gradient_report(refused_loss, Scale(ONES, ONES), ONES)
    assert report.ok
    assert report.check(allow_assumed=True) is report
    with pytest.raises(GradientError) as error:
        report.check()
    assert str(error.value) == (
        "gradient_report(refused_loss): jax.grad will refuse this function\n"
        "  expected: a gradient for all of trainable_filter, none for Buffers and "
        "frozen leaves\n"
        "  found:    custom_jvp_call cannot be differentiated: no rule for this, and a "
        "long story\n"
        "            and a long story and a long story and a long story\n"
        "  fix:      give it a rule with jax.custom_jvp, or check(allow_assumed=True)"
    )


def test_what_only_other_leaves_go_into_is_not_refused():
    report = gradient_report(
        lambda m: m["a"] * refuses(m["b"]), params("ab"), wrt=anx.by_path("a")
    )
    assert (report.assumed, report.refused) == (("custom_jvp_call",), ())
    assert report.check() is report


def test_data():
    report = gradient_report(call, Foreign(ONES, ONES), ONES)
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data == {
        "function": "call",
        "selection": "trainable_filter",
        "ok": False,
        "selected": ["weight"],
        "dead": [],
        "guarded": ["mean"],
        "leaking": [{"path": "mean", "reason": "a Buffer by registration alone"}],
        "integer": [],
        "integer_params": [],
        "undeclared": [],
        "assumed": [],
        "refusals": {},
        "refused": [],
        "through_while": False,
    }
    assert pickle.loads(pickle.dumps(report)) == report
    assert hash(report) == hash(gradient_report(call, Foreign(ONES, ONES), ONES))
    assert not report


def test_check_names_everything_at_once():
    line = mixed.__code__.co_firstlineno + 1
    with pytest.raises(GradientError) as error:
        mixed_report().check()
    unused = "".join(f"            w.{i} is dead: unused\n" for i in range(15))
    assert str(error.value) == (
        "gradient_report(mixed): gradients do not flow as the roles say\n"
        "  expected: a gradient for all of trainable_filter, none for Buffers and "
        "frozen leaves\n"
        f"  found:    stopped is dead: cut by stop_gradient at {HERE}:{line}\n"
        f"{unused}"
        "            foreign.mean leaks: a Buffer by registration alone\n"
        "  fix:      use what is dead, freeze it, or declare it a Buffer\n"
        "            annotax.adopt(model) keeps gradients out of registered Buffers"
    )


def test_check_says_what_to_do_with_a_state():
    _, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="ema")

    def loss(pair):
        return jnp.sum(pair[0]) + sum(jnp.sum(x) for x in jax.tree.leaves(pair[1]))

    with pytest.raises(GradientError) as error:
        gradient_report(loss, (ONES, state)).check()
    assert str(error.value) == (
        "gradient_report(loss): gradients do not flow as the roles say\n"
        "  expected: a gradient for all of trainable_filter, none for Buffers and "
        "frozen leaves\n"
        "  found:    1.1.0 leaks: a Buffer that stands in no module\n"
        "            1.1.1 leaks: a Buffer that stands in no module\n"
        "  fix:      give a State or Leaves to the function beside the model, not in it"
    )


# --- bad input -----------------------------------------------------------------------

NO_OUTPUT = """\
gradient_report({}): the function returns nothing that can be differentiated
  expected: at least one inexact array{}
  found:    {}"""
NOTHING = """\
gradient_report(call): {} selects nothing that has a gradient
  expected: at least one inexact array
  found:    {}, none selected
  fix:      look at annotax.records(model); say wrt=... if something else is meant"""
NO_MODEL = """\
gradient_report({}): {}
  expected: gradient_report(fn, model, *args)
  found:    {}, then {}"""


def counts(model):
    return jnp.argmax(model["a"]), "text"


def silent(model):
    return None


@pytest.mark.parametrize(
    ("fn", "options", "message"),
    [
        (counts, {}, NO_OUTPUT.format("counts", "", "an array int32[], a str")),
        (
            counts,
            {"has_aux": True},
            NO_OUTPUT.format("counts", " in the first of the pair", "an array int32[]"),
        ),
        (silent, {}, NO_OUTPUT.format("silent", "", "None")),
        (
            silent,
            {"has_aux": True},
            "gradient_report(silent): has_aux=True, and the function returns no pair\n"
            "  expected: (result, aux)\n"
            "  found:    None",
        ),
    ],
)
def test_functions_that_return_nothing_to_differentiate(fn, options, message):
    with pytest.raises(GradientError) as error:
        gradient_report(fn, params("a"), **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("model", "wrt", "selection", "found"),
    [
        ([], anx.trainable_filter, "trainable_filter", "a list with 0 leaves, 0 of them"),
        ([1], anx.everything, "everything", "a list with 1 leaf, 0 of them"),
        ([ONES], anx.by_path("b"), "by_path('b')", "a list with 1 leaf, 1 of them"),
    ],
)
def test_selections_that_match_nothing(model, wrt, selection, found):
    with pytest.raises(SelectionError) as error:
        gradient_report(call, model, wrt=wrt)
    assert str(error.value) == NOTHING.format(selection, f"{found} inexact arrays")


@pytest.mark.parametrize(
    ("fn", "model", "message"),
    [
        (
            Foreign(ONES, ONES),
            ONES,
            NO_MODEL.format(
                "Foreign", "this is no model", "a Foreign", "an array float32[3]"
            ),
        ),
        (call, 1.0, NO_MODEL.format("call", "this is no model", "a function", "a float")),
        (
            ONES,
            Scale(ONES, ONES),
            NO_MODEL.format(
                type(ONES).__name__,
                "the function is missing",
                "an array float32[3]",
                "a Scale",
            ),
        ),
    ],
)
def test_what_is_no_function_of_a_model(fn, model, message):
    with pytest.raises(GradientError) as error:
        gradient_report(fn, model)
    assert str(error.value) == message


def test_what_is_no_selection():
    with pytest.raises(SelectionError, match="this is no selection"):
        gradient_report(call, params("a"), wrt="a")


def test_what_the_function_raises_passes_through():
    def loss(model):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        gradient_report(loss, params("a"))


# --- against an oracle ---------------------------------------------------------------

NAMES = "abcde"
UNARY = {
    "sin": jnp.sin,
    "round": jnp.round,
    "sign": jnp.sign,
    "stop": lax.stop_gradient,
    "relu": jax.nn.relu,
    "sum": lambda x: jnp.sum(x) + jnp.zeros(3),
    "integer": lambda x: x.astype(int).astype(x.dtype),
    "straight": straight_through,
    "softmax": jax.nn.softmax,
    "reverse": lambda x: x[::-1],
}
BINARY = {
    "add": jnp.add,
    "mul": jnp.multiply,
    "greater": lambda x, y: jnp.where(x > y, 1.0, 2.0),
    "where": lambda x, y: jnp.where(x > 0, x, y),
    "product": product,
    "constant": lambda x, y: ONES,
}


def jitted(run, x, y):
    return jax.jit(run)(x, y)[0]


def checkpointed(run, x, y):
    return jax.checkpoint(run)(x, y)[1]


def looped(run, x, y):
    carry, rows = lax.scan(
        lambda c, row: (run(*c), row + c[0]), (x, y), jnp.ones((2, 3)), length=2
    )
    return carry[0] + rows[0] * 0.5


def chosen(run, x, y):
    return lax.cond(x[0] > y[0], lambda: run(x, y)[0], lambda: y)


def repeated(run, x, y):
    def more(state):
        return state[0] < 2 + 0 * jnp.sum(jnp.sign(state[2]))

    state = lax.while_loop(more, lambda s: (s[0] + 1, *run(s[1], s[2])), (0, x, y))
    return state[1]


NESTED = {"jit": jitted, "checkpoint": checkpointed, "scan": looped, "cond": chosen}
FORWARD_ONLY = {"while": repeated}
BACKWARD_ONLY = {"one_sided": one_sided, "zeroed": zeroed, "made_up": made_up}


def execute(program, env):
    """Run statements, each of which adds a variable; the last two are the result."""
    env = list(env)
    for op, i, j, inner in program:
        x, y = env[i % len(env)], env[j % len(env)]
        if op in UNARY:
            env.append(UNARY[op](x))
        elif op in BINARY | BACKWARD_ONLY:
            env.append((BINARY | BACKWARD_ONLY)[op](x, y))
        else:
            run = partial(inside, inner, tuple(env))
            env.append((NESTED | FORWARD_ONLY)[op](run, x, y))
    return env[-1], env[-2]


def inside(program, env, x, y):
    return execute(program, [*env, x, y])


def programs(extra):
    """Programs of straight lines, loops and branches, nested up to three deep."""
    at = st.integers(0, 11)
    flat = st.tuples(st.sampled_from([*UNARY, *BINARY, *extra[0]]), at, at, st.just(()))

    def statements(inner):
        nested = st.tuples(st.sampled_from([*NESTED, *extra[1]]), at, at, inner)
        return st.lists(st.one_of(flat, nested), min_size=2, max_size=5)

    return st.recursive(st.lists(flat, min_size=1, max_size=4), statements, max_leaves=4)


def loss_of(program):
    return lambda m: jnp.sum(execute(program, [m[name] for name in NAMES])[0])


@given(programs(((), ())))
def test_dead_is_what_the_program_of_the_jvp_does_not_need(program):
    loss, model = loss_of(program), params(NAMES)

    def tangent(m, t):
        return jax.jvp(loss, (m,), (t,))[1]

    closed = jax.make_jaxpr(tangent)(model, model)
    _, used = partial_eval.dce_jaxpr(closed.jaxpr, [True])
    expected = [n for n, u in zip(NAMES, used[len(NAMES) :], strict=True) if not u]
    report = gradient_report(loss, model)
    assert list(report.dead) == expected
    assert report.assumed == ()


def reached(derivative):
    """The names of the leaves by which the result has a derivative here."""
    return {name for name in NAMES if np.any(np.asarray(derivative[name]) != 0)}


POINT = {n: jnp.array([0.3, -1.2, 2.1]) * (i + 1) for i, n in enumerate(NAMES)}


@settings(max_examples=40)
@given(programs((BACKWARD_ONLY, ())))
def test_a_leaf_with_a_gradient_is_never_dead(program):
    loss = loss_of(program)
    report = gradient_report(loss, POINT)
    assert reached(jax.grad(loss)(POINT)).isdisjoint(report.dead)
    assert report.assumed == ()


@settings(max_examples=25)  # each compiles
@given(programs(((), FORWARD_ONLY)))
def test_a_leaf_with_a_tangent_is_never_dead(program):
    loss = loss_of(program)
    report = gradient_report(loss, POINT)
    assert reached(jax.jacfwd(loss)(POINT)).isdisjoint(report.dead)
    assert report.assumed == ()


@settings(max_examples=25)  # each compiles
@given(programs((BACKWARD_ONLY, FORWARD_ONLY)))
def test_every_reason_is_true(program):
    """What is said to be unused changes nothing; whatever else is dead has its reason."""
    report = gradient_report(loss_of(program), params(NAMES))
    for path, reason in report.reasons.items():
        changed = params(NAMES) | {path: 5 * ONES}
        if reason == "unused":
            run = jax.jit(loss_of(program))
            assert np.array_equal(run(changed), run(params(NAMES)), equal_nan=True)
        else:
            assert reason.startswith(("cut by ", "no derivative: "))


def test_an_error_shows_twenty_rows():
    model = {f"w{at}": jnp.ones(2) for at in range(50)}
    report = anx.gradient_report(lambda model: jnp.sum(model["w0"]), model)
    with pytest.raises(anx.GradientError) as caught:
        report.check()
    found = str(caught.value)
    assert found.count(" is dead: unused") == 20
    assert "\n            and 29 more\n" in found
    assert len(report.dead) == 49
