"""How much is checked: who may say so, and whose word counts."""

import asyncio
import itertools
import os
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from jaxtyping import Array, Float

import annotax as anx

MODES = ("off", "fields", "full")
ORDER = dict(zip(MODES, range(3), strict=True))


class Linear(anx.Module):
    weight: anx.Param[Float[Array, "outs ins"]]
    bias: anx.Param[Float[Array, " outs"] | None]


def layer(**keywords):
    """A class with a field that has a role, a field without one, and a method."""

    class Layer(anx.Module, **keywords):
        weight: anx.Param[Float[Array, " n"]]
        name: str = ""

        def __call__(self, x: Float[Array, " n"]):
            return x

    return Layer


def checked(cls):
    """In which mode a class is: by what is refused."""

    def refuses(action):
        try:
            action()
        except anx.CheckError:
            return True
        return False

    assert not refuses(lambda: cls(jnp.ones(2))(jnp.ones(2)))
    if not refuses(lambda: cls(1.0)):
        assert not refuses(lambda: cls(1.0, 2)(3))
        return "off"
    full = [
        refuses(lambda: cls(jnp.ones(2), 2)),
        refuses(lambda: cls(jnp.ones(2))(jnp.ones(3))),
    ]
    assert full[0] == full[1]
    return "full" if full[0] else "fields"


# --- classes and blocks ------------------------------------------------------------------


@pytest.mark.parametrize("of_class", [None, *MODES])
@pytest.mark.parametrize("asked", [None, *MODES])
def test_a_class_is_checked_no_more_than_it_says(of_class, asked):
    said = {} if of_class is None else {"check": of_class}
    if asked is None:
        assert checked(layer(**said)) == (of_class or "fields")
        return
    with anx.checking(asked):
        found = checked(layer(**said))
    assert found == min(asked, of_class or asked, key=ORDER.__getitem__)


def test_methods_are_those_of_the_mode_in_which_the_class_was_made():
    early = layer()
    with anx.checking("full"):
        late = layer()
        with pytest.raises(anx.CheckError):
            early(jnp.ones(2), 2)
        early(jnp.ones(2))(jnp.ones(3))  # its methods are as they were written
        assert checked(late) == "full"
    assert checked(late) == "full"
    with anx.checking("fields"):
        assert checked(late) == "fields"


def test_a_class_derived_from_one_that_was_made_in_full_is_full_too():
    with anx.checking("full"):
        base = layer()
    assert checked(type(base)("Derived", (base,), {})) == "full"


@pytest.mark.parametrize(("outer", "inner"), [*itertools.product(MODES, MODES)])
def test_blocks_nest(outer, inner):
    with anx.checking(outer):
        with anx.checking(inner):
            assert checked(layer()) == inner
        assert checked(layer()) == outer
        with pytest.raises(KeyError), anx.checking(inner):
            raise KeyError
        assert checked(layer()) == outer
    assert checked(layer()) == "fields"


def test_a_block_as_a_decorator():
    @anx.checking("off")
    def build():
        return Linear(0, None)

    assert build().weight == build().weight == 0
    with pytest.raises(anx.CheckError):
        Linear(0, None)


@pytest.mark.parametrize("parent", MODES)
@pytest.mark.parametrize("child", [None, *MODES])
def test_the_keyword_is_inherited_and_the_nearest_one_counts(parent, child):
    class Base(anx.Module, check=parent):
        name: str

    class Middle(Base, **({} if child is None else {"check": child})):
        weight: anx.Param[Array]

    class Layer(Middle):
        pass

    wanted = child or parent
    outcomes = []
    for values in ((1, jnp.ones(1)), ("", 1.0)):
        try:
            Layer(*values)
            outcomes.append(True)
        except anx.CheckError:
            outcomes.append(False)
    assert outcomes == [wanted != "full", wanted == "off"]


def test_a_frozen_instance_keeps_the_mode_of_its_class():
    model = anx.freeze(layer(check="off")(jnp.ones(2)), anx.everything)
    assert anx.replace(model, weight=1.0).weight == 1.0


# --- threads and tasks -------------------------------------------------------------------


def mode_now():
    return checked(layer())


def test_a_block_holds_in_its_own_thread():
    found = {}
    with anx.checking("off"):
        thread = threading.Thread(target=lambda: found.update(other=mode_now()))
        thread.start()
        thread.join()
        assert (found["other"], mode_now()) == ("fields", "off")

    inside, go_on = threading.Event(), threading.Event()

    def other():
        with anx.checking("full"):
            inside.set()
            go_on.wait(60)
            found["other"] = mode_now()

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(60)
    assert mode_now() == "fields"
    go_on.set()
    thread.join()
    assert found["other"] == "full"


def test_a_block_holds_in_its_own_task():
    async def task(mode, others):
        with anx.checking(mode):
            for _ in others:  # every task has its turn
                await asyncio.sleep(0)
                assert mode_now() == mode

    async def main():
        await asyncio.gather(*(task(mode, MODES) for mode in MODES))
        assert mode_now() == "fields"
        with anx.checking("off"):  # what starts inside has it, too
            assert await asyncio.create_task(asyncio.to_thread(mode_now)) == "off"

    asyncio.run(main())


# --- from outside ------------------------------------------------------------------------

PROBE = """
import annotax as anx, jax.numpy as jnp
from jaxtyping import Array
class Layer(anx.Module{}):
    weight: anx.Param[Array]
    name: str = ""
def refuses(*values):
    try:
        Layer(*values)
    except anx.CheckError:
        return True
    return False
print(refuses(1.0), refuses(jnp.ones(1), 2))
with anx.checking("full"):
    print(refuses(1.0), refuses(jnp.ones(1), 2))
"""
SEEN = {"off": [False] * 2, "fields": [True, False], "full": [True, True]}


def run(code, *, check=True, **environment):
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    assert (done.returncode == 0) == check, done.stderr
    return done.stdout.split() if check else done.stderr


@pytest.mark.parametrize(
    ("environment", "outside", "inside"),
    [
        ({"ANNOTAX_CHECK": "off"}, "off", "full"),
        ({"ANNOTAX_CHECK": "full"}, "full", "full"),
        ({"ANNOTAX_CHECK": ""}, "fields", "full"),
        ({"ANNOTAX_CHECK": "full", "JAXTYPING_DISABLE": "1"}, "off", "off"),
    ],
    ids=str,
)
def test_the_environment(environment, outside, inside):
    wanted = [str(one) for mode in (outside, inside) for one in SEEN[mode]]
    assert run(PROBE.format(""), **environment) == wanted


def test_a_class_says_more_than_nothing_and_less_than_the_environment():
    assert run(PROBE.format(', check="fields"'), ANNOTAX_CHECK="full") == [
        str(one) for mode in ("fields", "fields") for one in SEEN[mode]
    ]
    assert run(PROBE.format(', check="full"'), ANNOTAX_CHECK="off")[:2] == ["False"] * 2


def test_an_environment_without_sense():
    error = run("import annotax", check=False, ANNOTAX_CHECK="ful")
    assert error.endswith(
        "CheckError: ANNOTAX_CHECK: this is no mode of checking\n"
        "  expected: 'off' or 'fields' or 'full'\n"
        "  found:    'ful'\n"
        "  fix:      did you mean 'full'?\n"
    )


def test_the_switch_of_jaxtyping():
    cls = layer(check="full")
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        assert checked(cls) == "off"
        with anx.checking("full"):
            assert checked(layer()) == "off"
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert checked(cls) == "full"


# --- together with jaxtyping -----------------------------------------------------------

USER = '''
import annotax as anx
import equinox as eqx
from jaxtyping import Array, Float

class Linear(anx.Module{}):
    weight: anx.Param[Float[Array, "outs ins"]]
    outs: anx.Hyper[int]

    def __call__(self, x: Float[Array, " ins"]) -> Float[Array, " outs"]:
        """Apply it."""
        return self.weight @ x

class Own(Linear):
    def __init__(self, weight: Float[Array, "a b"]):
        self.weight = weight
        self.outs = 3

def good(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return x
'''


def chain(error):
    """An error of ours or of jaxtyping, and those that it came from or came up beside."""
    while error is not None:
        if isinstance(error, anx.CheckError | jaxtyping.TypeCheckError):
            yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("mode", ["fields", "full"])
@pytest.mark.parametrize("checker", ["beartype.beartype", None])
def test_the_import_hook_on_a_package_of_the_user(tmp_path, monkeypatch, mode, checker):
    name = f"hooked_{mode}_{'beartype' if checker else 'none'}"
    (tmp_path / f"{name}.py").write_text(USER.format(f', check="{mode}"'))
    monkeypatch.syspath_prepend(tmp_path)
    with jaxtyping.install_import_hook(name, checker):
        module = __import__(name)
    model = module.Linear(jnp.ones((3, 2)), 3)
    assert model(jnp.ones(2)).shape == (3,)
    assert module.Own(jnp.ones((3, 2)))(jnp.ones(2)).shape == (3,)
    assert jax.vmap(model)(jnp.ones((4, 2))).shape == (4, 3)
    assert model.__call__.__doc__ == "Apply it."
    # Whoever looks first tells it, and nobody tells it twice.
    for action in (
        lambda: module.Linear(jnp.ones(3), 3),
        lambda: module.Own(jnp.ones((2, 3))),  # fits but for the Hyper: only we know
        *([lambda: model(jnp.ones(3))] if mode == "full" else []),
    ):
        with pytest.raises((anx.CheckError, jaxtyping.TypeCheckError)) as caught:
            action()
        assert {type(error) for error in chain(caught.value)} == {caught.type}
    with pytest.raises(anx.CheckError, match="but outs is 3"):
        module.Own(jnp.ones((2, 3)))


def test_the_import_hook_on_annotax_itself():
    """Every function in annotax has a scope of its own then; sizes must not be lost."""
    code = """
    import jaxtyping
    with jaxtyping.install_import_hook("annotax", "beartype.beartype"):
        import annotax as anx
    import jax, jax.numpy as jnp
    from jaxtyping import Array, Float
    class Linear(anx.Module, check="full"):
        weight: anx.Param[Float[Array, "outs ins"]]
        bias: anx.Param[Float[Array, "outs"] | None]
        names: anx.Param[dict[str, Float[Array, "*batch outs+1"]]]
        outs: anx.Hyper[int]
        def __call__(self, x: Float[Array, "ins"]) -> Float[Array, "outs"]:
            return self.weight @ x
    one = Linear(jnp.ones((3, 2)), None, {"a": jnp.ones((7, 4))}, 3)
    assert one(jnp.ones(2)).shape == (3,)
    def told(action):
        try:
            action()
        except anx.CheckError as error:
            print(str(error).count("float32["), error.__context__, error.__cause__)
    told(lambda: Linear(jnp.ones((2, 3)), jnp.ones(4), {"a": jnp.ones((7, 5))}, 3))
    told(lambda: one(jnp.ones(3)))
    print(anx.validate(one))
    """
    told = run(textwrap.dedent(code))
    assert told == ["3", "None", "None", "1", "None", "None", "()"]


# --- trees that are no models ------------------------------------------------------------


def test_a_model_of_axes():
    def apply(model, x):
        return model.weight @ x + model.bias

    with anx.checking("off"):
        axes = Linear(0, None)
    with pytest.raises(anx.CheckError):
        Linear(0, None)
    plain = Linear(jnp.ones((3, 2)), jnp.ones(3))
    stacked = jax.vmap(lambda w: Linear(w, plain.bias), out_axes=axes)(jnp.ones((5, 3, 2)))
    assert stacked.bias.shape == (3,)
    assert jax.vmap(apply, in_axes=(axes, None))(stacked, jnp.ones(2)).shape == (5, 3)
