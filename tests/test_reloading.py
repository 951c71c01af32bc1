"""Modules loaded again and cells run again while old instances live."""

import importlib
import pickle
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

import annotax as anx

MODULE = """
    import equinox as eqx
    from typing import Any
    import annotax as anx

    class Inner(anx.Module):
        weight: anx.Param[Any]
        state: anx.{role}[Any]
        def __call__(self, x):
            return self.weight * x + self.state

    class Outer(anx.Module):
        inner: Inner

    class Foreign(eqx.Module):
        table: Any
        size: int

    anx.register(Foreign, table=anx.{role}, size=anx.Hyper)
"""


@pytest.fixture
def reloaded(tmp_path, monkeypatch):
    """A module on disk; calling it with other text loads it again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "loaded_again.py"

    def load(role):
        file.write_text(textwrap.dedent(MODULE.format(role=role)))
        importlib.invalidate_caches()
        known = sys.modules.get("loaded_again")
        return (
            importlib.import_module("loaded_again")
            if known is None
            else importlib.reload(known)
        )

    yield load
    sys.modules.pop("loaded_again", None)


def test_a_module_loaded_again_while_old_instances_live(reloaded):
    module = reloaded("Buffer")
    old = module.Outer(module.Inner(jnp.ones(2), jnp.zeros(2)))
    old_frozen = anx.freeze(old, anx.by_path("inner.weight"))
    module = reloaded("Param")
    new = module.Outer(module.Inner(jnp.ones(2), jnp.zeros(2)))
    assert type(new) is not type(old)
    assert jax.tree.structure(new) != jax.tree.structure(old)
    # Each says what its own class said, in whatever order they are asked.
    for _ in range(2):
        assert anx.trainable_filter.paths(new) == ("inner.weight", "inner.state")
        assert anx.trainable_filter.paths(old) == ("inner.weight",)
        assert list(anx.params(old_frozen)) == []
        both = [old, new, module.Outer(old.inner)]
        assert anx.by_path("*.inner.state").count(both) == 3
        assert [p for p in anx.params(both) if p.endswith("state")] == ["1.inner.state"]
    assert anx.unfreeze(old_frozen) == old
    frozen_again = [anx.freeze(model, anx.by_path("inner.weight")) for model in (old, new)]
    same = [type(model.inner) is type(old_frozen.inner) for model in frozen_again]
    assert same == [True, False]
    # Weights go from one to the other, by path; and what is in the way is told.
    trained = jax.tree.map(lambda x: x + 1, anx.leaves(old, anx.everything))
    assert float(anx.update(new, trained).inner.weight[0]) == 2.0
    assert "two classes of one name: its file was loaded" in str(anx.diff(old, new))


def test_pickles_across_a_reload(reloaded):
    module = reloaded("Buffer")
    old = module.Outer(module.Inner(jnp.ones(2), jnp.zeros(2)))
    frozen = anx.freeze(old, anx.by_path("inner.weight"))
    stored = pickle.dumps([old, frozen])
    module = reloaded("Param")
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(old)
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(frozen)
    plain, again = pickle.loads(stored)
    assert type(plain) is module.Outer
    assert isinstance(again, module.Outer)
    assert list(anx.params(plain)) == ["inner.weight", "inner.state"]
    assert list(anx.params(again)) == ["inner.state"]


def test_a_foreign_class_registered_by_a_module_loaded_again(reloaded):
    module = reloaded("Buffer")
    old = module.Foreign(jnp.ones(2), 3)
    old_adopted = anx.adopt(old)
    module = reloaded("Param")
    new = module.Foreign(jnp.ones(2), 3)
    assert list(anx.params(new)) == list(anx.params(anx.adopt(new))) == ["table"]
    assert list(anx.params(old)) == list(anx.params(old_adopted)) == []
    anx.register(type(old), table=anx.Param)  # an old class can still be spoken for
    assert list(anx.params(old)) == list(anx.params(old_adopted)) == ["table"]


CELLS = [
    "from __future__ import annotations",
    "import annotax as anx, jax.numpy as jnp",
    "from jaxtyping import Array, Float",
    """class Cell(anx.Module):
    weight: anx.Param[Float[Array, ' n']]
    size: anx.Hyper[int]""",
    "model = Cell(jnp.ones(2), 2)",
    "frozen = anx.freeze(model, anx.everything)",
    """class Cell(anx.Module):
    weight: anx.Buffer[Float[Array, ' n']]
    size: anx.Hyper[Size]""",
    "Size = float",
    "again = Cell(jnp.ones(2), 2)",
]


def test_cells_of_a_notebook_that_run_again(monkeypatch):
    """As IPython runs them: in `__main__`, and what `__future__` gives is remembered."""
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    flags = __import__("__future__").annotations.compiler_flag
    for n, cell in enumerate(CELLS):
        exec(compile(cell, f"<cell {n}>", "exec", flags=flags), vars(main))
    model, again = main.model, main.again
    assert list(anx.params(model)) == ["weight"]
    assert list(anx.params(main.frozen)) == list(anx.params(again)) == []
    assert (type(model.size), type(again.size)) == (int, float)
    assert anx.records(again)[0].axes == ("n",)
    assert anx.unfreeze(main.frozen) == model
    assert pickle.loads(pickle.dumps(again)) == again
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(main.frozen)
