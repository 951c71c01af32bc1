"""Paths: the grammar, the way to a leaf and back, and what patterns match."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import DictKey, GetAttrKey, SequenceKey, tree_flatten_with_path

import annotax as anx
from annotax._path import begins, compile_pattern, join, matches, moved, segments
from strategies import ODD_KEYS, Model, fits, joined, models

# --- from a leaf to its path and back ------------------------------------------------


def path_of(key_path: tuple[Any, ...]) -> str:
    """The path that JAX's key path stands for, by the words of the contract."""
    text = ""
    for key in key_path:
        match key:
            case GetAttrKey(name=step):
                text += f".{step}"
            case SequenceKey(idx=index):
                text += f".{index}"
            case DictKey(key=str(step)) if step.isidentifier():
                text += f".{step}"
            case DictKey(key=other):
                text += f"[{other!r}]"
    return text.removeprefix(".")


@given(models())
@settings(max_examples=150)
def test_paths_are_those_of_jax_in_its_order(model: Model) -> None:
    pairs, _ = tree_flatten_with_path(model.tree)
    everything = anx.leaves(model.tree, anx.everything)
    assert list(everything) == [path_of(key_path) for key_path, _ in pairs]
    for key_path, leaf in pairs:
        assert everything[path_of(key_path)] is leaf


@given(models())
@settings(max_examples=150)
def test_paths_are_unique_and_their_steps_join_again(model: Model) -> None:
    paths = [record.path for record in anx.records(model.tree)]
    assert len(set(paths)) == len(paths)
    for path, expected in zip(paths, model.expected, strict=True):
        steps = segments(path)
        assert steps == expected.steps
        again = ""
        for step in steps:
            again = join(again, step)
        assert again == path


@given(models())
@settings(max_examples=150)
def test_a_path_selects_its_own_leaf(model: Model) -> None:
    for path in (record.path for record in anx.records(model.tree)):
        chosen = anx.by_path(path).paths(model.tree)
        assert path in chosen
        if "*" not in path:
            assert chosen == (path,)


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_can_be_selected_and_put_back(key: str) -> None:
    model = {key: {key: jnp.ones(2)}, "other": [jnp.zeros(2)]}
    (path,) = (p for p in anx.params(model) if p != "other.0")
    bare = key if key.isidentifier() else f"[{key!r}]"
    assert segments(path) == (bare, bare)
    assert path in anx.by_path(path).paths(model)
    assert anx.by_path("other.**").paths(model) == ("other.0",)
    changed = anx.update(model, jax.tree.map(lambda x: x + 1, anx.params(model)))
    assert float(changed[key][key][0]) == 2.0


class Layer(anx.Module):
    weight: anx.Param[Any]
    bias: anx.Param[Any]
    table: Any = None


class Net(anx.Module):
    layers: list[Any]
    head: Any


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True, order=True)
class Name:
    """A dictionary key whose repr is what its maker wants."""

    rank: int
    text: str

    def __repr__(self) -> str:
        return self.text


@jax.tree_util.register_pytree_node_class
class Keyless:
    """A PyTree node that does not name its children."""

    def __init__(self, *children: Any) -> None:
        self.children = children

    def tree_flatten(self) -> tuple[Any, None]:
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> "Keyless":
        return cls(*children)


@pytest.mark.parametrize(
    ("make", "paths"),
    [
        (lambda x: Net([Layer(x, x), Layer(x, None)], (x,)),
         ["layers.0.weight", "layers.0.bias", "layers.1.weight", "head.0"]),
        (lambda x: Layer(x, None, {"a.b": {"w": x}, "c": x}),
         ["weight", "table['a.b'].w", "table.c"]),
        (lambda x: Layer(None, None, {3: x, -1: [x]}), ["table[-1].0", "table[3]"]),
        (lambda x: {("a", 1): x, ("a", 0): {b"b": x}}, ["[('a', 0)][b'b']", "[('a', 1)]"]),
        (lambda x: [[x], (x, [x]), None, x], ["0.0", "1.0", "1.1.0", "3"]),
        (lambda x: Pair(x, Pair(None, x)), ["left", "right.right"]),
        (lambda x: {"größe": x, "class": x, "a b": x, "": x},
         ["['']", "['a b']", "class", "größe"]),
        (lambda x: OrderedDict([("b", x), ("a", x)]), ["b", "a"]),
        (lambda x: [Keyless(x, Keyless(x))], ["0.0", "0.1.0"]),
        (lambda x: {"it's": x, '"': x, "\\": x}, ["['\"']", "['\\\\']", "[\"it's\"]"]),
        (lambda x: {"a": {"b c": x}, "a['b c']": x}, ["a['b c']", "[\"a['b c']\"]"]),
        (lambda x: {"a": {"b": x}, "a.b": x}, ["a.b", "['a.b']"]),
        (lambda x: [eqx.nn.Linear(1, 1, key=jax.random.key(0)), x],
         ["0.weight", "0.bias", "1"]),
        (lambda x: {"p": jax.tree_util.Partial(len, x, k=x)}, ["p.0.0", "p.1.k"]),
    ],
)  # fmt: skip
def test_the_grammar_of_paths(make: Any, paths: list[str]) -> None:
    model = make(jnp.ones(2))
    found = [record.path for record in anx.records(model)]
    assert found == paths
    for path in paths:
        assert anx.by_path(path).paths(model) == (path,)


@pytest.mark.parametrize("text", ["k", "it's", "]", "[", "a.b", "<k>", "'k'", ""])
def test_keys_with_the_same_text_give_different_paths(text: str) -> None:
    keys = [Name(0, text), Name(1, text), Name(2, text)]
    model = {
        "t": {key: [jnp.ones(2)] for key in keys},
        "u": dict.fromkeys(keys, jnp.ones(1)),
    }
    paths = [record.path for record in anx.records(model)]
    assert len(set(paths)) == len(paths) == 6
    assert len(anx.params(model)) == 6
    for path in paths:
        again = ""
        for step in segments(path):
            again = join(again, step)
        assert again == path
        assert anx.by_path(path).paths(model) == (path,)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("", ()),
        ("weight", ("weight",)),
        ("layers.0.weight", ("layers", "0", "weight")),
        ("table['a.b'].w", ("table", "['a.b']", "w")),
        ("a[0][1]", ("a", "[0]", "[1]")),
        ("[0].a", ("[0]", "a")),
        ("['[']['].[']", ("['[']", "['].[']")),
        ("a['\\'']", ("a", "['\\'']")),
        ("a['\\\\'].b", ("a", "['\\\\']", "b")),
        ('a["it\'s"].b', ("a", '["it\'s"]', "b")),
        ("a[(1, ['x'])].b", ("a", "[(1, ['x'])]", "b")),
        ("a[<Key.X: 1>].b", ("a", "[<Key.X: 1>]", "b")),
        ("a.*.**", ("a", "*", "**")),
    ],
)
def test_a_path_is_cut_into_steps(path: str, steps: tuple[str, ...]) -> None:
    assert segments(path) == steps
    again = ""
    for step in steps:
        again = join(again, step)
    assert again == path


# --- patterns ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("a", ["a"], ["b", "a.a", "aa", "['a']", ""]),
        ("*", ["a", "0", "['x.y']"], ["a.b", "a[0]", ""]),
        ("**", ["a", "a.b", "a[0].c"], []),
        ("*.w", ["a.w", "['x.y'].w"], ["w", "a.b.w", "a.ww"]),
        ("**.w", ["w", "a.w", "a.0.w"], ["a.ww", "w.a", "a['w']"]),
        ("a.**", ["a", "a.b", "a.0.c", "a['k']"], ["b", "aa", "b.a"]),
        ("a.**.w", ["a.w", "a.b.w", "a[0].c.w"], ["a", "w", "a.w.b"]),
        ("**.a.**", ["a", "a.b", "b.a", "x.a.y.z"], ["b", "xa", "ab.c"]),
        ("**.*", ["a", "a.b"], [""]),
        ("**.**", ["a", "a.b.c"], []),
        ("a.**.**.b", ["a.b", "a.c.d.b"], ["a", "b"]),
        ("layers.*.bias", ["layers.0.bias", "layers.10.bias"], ["layers.bias"]),
        ("layers.1*.w", ["layers.1.w", "layers.10.w"], ["layers.0.w", "layers.1.x.w"]),
        ("*norm*.scale", ["norm.scale", "prenorm2.scale"], ["nor.scale", "norm.x.scale"]),
        ("w_*_b", ["w__b", "w_x_b"], ["w_b", "w_.b", "w_x_bc"]),
        ("table['a.b'].w", ["table['a.b'].w"], ["table.a.b.w", "table['aXb'].w"]),
        ("table['a.*'].w", ["table['a.b'].w", "table['a.'].w"], ["table['b.a'].w"]),
        ("table[*]", ["table['a']", "table[0]", "table[(1, 2)]"], ["table.a", "table"]),
        ("table.*", ["table.a", "table['a']", "table[0]"], ["table", "table[0].w"]),
        ("[*].w", ["[0].w", "['x'].w"], ["a.w", "w"]),
        ("['**'].w", ["['**'].w", "['x'].w"], ["['**'].x"]),
        ("a.(b|c)", ["a.(b|c)"], ["a.b", "a.c"]),
        ("a.?", ["a.?"], ["a.b"]),
        ("a+", ["a+"], ["aa", "a"]),
        ("größe", ["größe"], ["grosse"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, hits: list[str], misses: list[str]) -> None:
    compiled = compile_pattern(pattern)
    assert [path for path in hits if not matches(compiled, path)] == []
    assert [path for path in misses if matches(compiled, path)] == []


_STEP = st.sampled_from(["a", "b", "ab", "0", "10", "['a.b']", "[0]", "w_b"])
_WILD_STEP = st.sampled_from(["*", "**", "a*", "*b", "*a*", "1*", "[*]", "['*']"])


@given(st.lists(_STEP | _WILD_STEP, min_size=1, max_size=5), st.lists(_STEP, max_size=5))
@settings(max_examples=500)
def test_patterns_match_as_the_contract_says(pattern: list[str], steps: list[str]) -> None:
    found = matches(compile_pattern(joined(tuple(pattern))), joined(tuple(steps)))
    assert found == fits(tuple(pattern), tuple(steps))


@given(st.lists(_STEP, min_size=1, max_size=5), st.data())
def test_a_path_with_steps_left_open_still_matches(
    steps: list[str], data: st.DataObject
) -> None:
    pattern: list[str] = []
    for step in steps:
        spread = data.draw(st.sampled_from([(step,), ("*",), ("**",), ("**", step)]))
        pattern += spread
    assert matches(compile_pattern(joined(tuple(pattern))), joined(tuple(steps)))


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        ".",
        "..",
        ".a",
        "a.",
        "a..b",
        "a.**.",
        "a**",
        "**a",
        "a.b**.c",
        "***",
        "a['b",
        "a['b]",
        "a[",
        "a[0",
        "a[[b]",
        "a]",
        "a.0]",
        "a.[0]",
        "a['b']c",
        "['a']b.c",
        "a['b'].",
        "a\0b",
        "['a\0b']",
    ],
)
def test_malformed_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(anx.SelectionError, match="malformed") as refusal:
        anx.by_path(pattern)
    assert repr(pattern) in str(refusal.value)


@pytest.mark.parametrize("pattern", ["a[]", "a[''].b", "*.*", "a['x]'].b", "a['\\'']"])
def test_unusual_patterns_are_not(pattern: str) -> None:
    assert repr(anx.by_path(pattern)) == f"by_path({pattern!r})"


@pytest.mark.parametrize(
    ("pattern", "place", "path", "there"),
    [
        ("a", "b", "a", "b"),
        ("a", "b", "a.w", "b.w"),
        ("a.b", "c", "a.b.w", "c.w"),
        ("a", "b.c", "a[0].w", "b.c[0].w"),
        ("layers.*", "blocks.*", "layers.3.w", "blocks.3.w"),
        ("*.*", "x.*_*_end", "a.b.w", "x.a_b_end.w"),
        ("enc*r", "dec*r", "encoder.w", "decoder.w"),
        ("a.**", "b.**", "a.x['y.z'].w", "b.x['y.z'].w"),
        ("a.**.end", "**.b.end", "a.x.y.end.w", "x.y.b.end.w"),
        ("a.**.end", "b.**", "a.end.w", "b.w"),
    ],
)
def test_first_steps_move_to_another_place(
    pattern: str, place: str, path: str, there: str
) -> None:
    compiled = compile_pattern(pattern)
    assert begins(compiled, path)
    assert moved(compiled, place, path) == there


def test_only_what_begins_so_can_move() -> None:
    compiled = compile_pattern("a.*")
    assert [p for p in ("a", "b.a.w", "ab.w") if begins(compiled, p)] == []
    with pytest.raises(ValueError, match=r"^b\.a\.w$"):
        moved(compiled, "c.*", "b.a.w")


def test_a_pattern_that_matches_nothing_selects_nothing() -> None:
    assert anx.by_path("no.such.**").count({"a": jnp.ones(2)}) == 0
    with pytest.raises(anx.SelectionError, match=r"no\.such"):
        anx.by_path("no.such").expect(1).paths({"a": jnp.ones(2)})


def test_keys_whose_repr_raises_are_told_by_their_class():
    class Key:
        __lt__ = object.__lt__

        def __init__(self, number: int) -> None:
            self.number = number

        def __repr__(self) -> str:
            raise RuntimeError("no")

    class Odd:
        def __init__(self, children: tuple[Any, ...]) -> None:
            self.children = children

    keys = (Key(0), Key(1))
    jax.tree_util.register_pytree_with_keys(
        Odd,
        lambda odd: (tuple(zip(keys, odd.children, strict=True)), None),
        lambda _, children: Odd(tuple(children)),
    )
    tree = Odd((1.0, 2.0))
    assert anx.everything.paths(tree) == ("[<Key>]", "[<Key>#2]")
    assert anx.explain(tree, "[<Key>#2]").what == "a float 2.0"


def test_an_attribute_and_a_key_of_one_node_may_have_the_same_name():
    class Both:
        def __init__(self, children: tuple[Any, ...]) -> None:
            self.children = children

    keys = (GetAttrKey("a"), DictKey("a"))
    jax.tree_util.register_pytree_with_keys(
        Both,
        lambda both: (tuple(zip(keys, both.children, strict=True)), None),
        lambda _, children: Both(tuple(children)),
    )
    assert anx.everything.paths(Both((1.0, [2.0]))) == ("a", "a#2.0")
