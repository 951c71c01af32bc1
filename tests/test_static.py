"""Static values as one value: compared exactly, hashed, pickled, and read as put in."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import annotax as anx
from annotax._static import Static


def test_equal_are_what_computes_the_same():
    one = Static({"sizes": [1, 2], "name": "a"})
    assert one == one  # noqa: PLR0124 -- the very same
    assert one == Static({"name": "a", "sizes": [1, 2]})
    assert one != {"sizes": [1, 2], "name": "a"}
    for other in ({"sizes": [1.0, 2], "name": "a"}, {"sizes": (1, 2), "name": "a"}, {}):
        assert one != Static(other)
    assert Static([float("nan")]) == Static([float("nan")])
    assert Static([0.0]) != Static([-0.0])


def test_equal_ones_have_one_hash_and_are_pickled():
    one = Static({"sizes": [1, 2]})
    assert len({one, Static({"sizes": [1, 2]}), Static({"sizes": [1, 3]})}) == 2
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again.value == {"sizes": [1, 2]}
    again.value["sizes"].append(3)
    assert again.value == {"sizes": [1, 2]}


class Plain(eqx.Module):
    weight: jax.Array
    sizes: list


def test_a_static_field_that_is_not_set_is_said_to_be_missing():
    adopted = anx.adopt(Plain(jnp.ones(2), [1, 2]))
    bare = object.__new__(type(adopted))
    with pytest.raises(AttributeError, match="sizes"):
        bare.sizes
    assert adopted.sizes == [1, 2]
