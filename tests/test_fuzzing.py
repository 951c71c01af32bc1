"""Strings and files that nobody would write: read rightly, or refused as promised.

Each part has a corpus in `fuzz_corpus`, of inputs that were once read wrongly or stand for
a kind, and a property over inputs made by their structure. How many examples a property
takes is told by `ANNOTAX_FUZZ`; `ANNOTAX_FUZZ=20000` also draws other ones in each run.
"""

import ast
import json
import os
import pathlib
import re
import sys
import tracemalloc
import types
import typing
import warnings
import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import annotax as anx
from annotax._path import compile_pattern, join_all, matches, segments

CORPUS = pathlib.Path(__file__).parent / "fuzz_corpus"
ASKED = os.environ.get("ANNOTAX_FUZZ")
FUZZING = settings(
    max_examples=int(ASKED or 100),
    derandomize=ASKED is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def corpus(name):
    """The entries of a corpus, each as a parameter that is called by its first item."""
    entries = json.loads((CORPUS / f"{name}.json").read_text())
    return [pytest.param(*entry, id=ascii(entry[0])[:40]) for entry in entries]


# --- annotations ---------------------------------------------------------------------

Adapter = typing.Annotated[typing.TypeVar("T"), anx.Role("adapter", parent=anx.Param)]
ROLES = {
    **{name: name.lower() for name in ("Param", "Buffer", "Hyper")},
    **{f"anx.{name}": name.lower() for name in ("Param", "Buffer", "Hyper")},
    "Adapter": "adapter",
}
KNOWN = ["int", "float", "Array", "jnp.ndarray", "Any", "None", "Itself", "Recursive"]
MISSING = ["Missing", "missing.Type", "größe", "Paramount", "Buffers"]
HEADS = ["list", "tuple", "dict", "Optional", "Union", "Callable", "PyTree", "Missing"]
DIMS = ["", "n", " n m", "*batch n", "n+1 _", "... c", "d=3", "Param", "Buffer[n]", "#b ?c"]
NAMES = {
    **{name: getattr(anx, name) for name in ("Param", "Buffer", "Hyper", "Module")},
    **{name: getattr(typing, name) for name in HEADS if hasattr(typing, name)},
    **{name: getattr(typing, name) for name in ("Any", "Annotated", "Literal", "ClassVar")},
    "anx": anx,
    "eqx": eqx,
    "jnp": jnp,
    "Array": jax.Array,
    "Float": jaxtyping.Float,
    "PyTree": jaxtyping.PyTree,
    "Adapter": Adapter,
    "Itself": "Itself",
    "Recursive": dict[str, "list[Recursive] | int"],
}


class Written(typing.NamedTuple):
    """An annotation as text, and the names of the roles that a reader sees in it."""

    text: str
    roles: frozenset = frozenset()


def made(form):
    """A form with annotations in its places; the roles are those of the parts."""
    return lambda *parts: Written(
        form.format(*(part.text for part in parts)),
        frozenset().union(*(part.roles for part in parts)),
    )


def with_role(name, inside):
    return Written(f"{name}[{inside.text}]", inside.roles | {ROLES[name]})


# What stands in these is no annotation, whatever it looks like.
ATOMS = st.one_of(
    st.sampled_from([*KNOWN, *MISSING]),
    st.sampled_from(DIMS).map(lambda dims: f"Float[Array, {dims!r}]"),
    st.sampled_from(DIMS).map(lambda dims: f"Float[Missing, {dims!r}]"),
    st.sampled_from(["Literal['Param[int]', 3]", "Annotated[int, 'Buffer[int]', 4]"]),
).map(Written)


def nested(inside):
    return st.one_of(
        st.builds(with_role, st.sampled_from(list(ROLES)), inside),
        st.builds(made("{} | {}"), inside, inside),
        st.builds(made("({})"), inside),
        st.sampled_from(HEADS).flatmap(lambda h: st.builds(made(f"{h}[{{}}]"), inside)),
        st.builds(made("dict[str, {}]"), inside),
        st.builds(made("Callable[[{}], {}]"), inside, inside),
        st.builds(made("Annotated[{}, 'Hyper', 1]"), inside),
        st.builds(made("Missing[{}, {}]"), inside, inside),
        inside.map(lambda part: Written(repr(part.text), part.roles)),
    )


ANNOTATIONS = st.recursive(ATOMS, nested, max_leaves=5)


def class_of(base, annotation):
    """A class with one field `x` of that annotation, in a module of its own."""
    module = types.ModuleType("fuzzed")
    module.__dict__.update(NAMES, base=base, annotation=annotation)
    sys.modules["fuzzed"] = module
    body = "class Fuzzed(base):\n    __annotations__ = {'x': annotation}\n"
    exec(body, module.__dict__)
    return module.Fuzzed


def role_read(annotation):
    """The name of the role of a field, or what its class was refused with.

    A class that is made can be used, whatever stands in it. One that plain Equinox refuses
    as well is as good as refused.
    """
    try:
        with anx.checking("off"):  # it is about roles: the value fits next to nothing
            instance = class_of(anx.Module, annotation)(3)
    except anx.AnnotationError as error:
        return str(error)
    except TypeError as error:
        with pytest.raises(TypeError, match=re.escape(str(error))):
            class_of(eqx.Module, eval(annotation, dict(NAMES)))
        return str(error)
    assert "Fuzzed" in str(anx.summary(instance))
    role = anx.explain(instance, "x").chain[-1].spec.role
    return role and role.name


@pytest.mark.parametrize(("annotation", "role"), corpus("annotations"))
def test_annotations_that_were_hard_to_read(annotation, role):
    found = role_read(annotation)
    assert found == role or (role is not None and role in str(found))


def told(roles):
    """What follows from the roles that stand in an annotation."""
    return next(iter(roles), None) if len(roles) < 2 else "Fuzzed.x: two roles"


@given(ANNOTATIONS)
@FUZZING
def test_a_role_is_found_wherever_it_stands(written):
    expected = told(written.roles)
    found = role_read(written.text)
    assert found == expected or found.startswith(str(expected))
    try:
        annotation = eval(written.text, dict(NAMES))
    except Exception:
        return  # a name is missing, or its types allow no such thing
    again = role_read(annotation)
    assert again == found or again.startswith(str(expected))


def plain_roles(text):
    """The roles that nobody could overlook: around types, in unions and containers."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        heads = re.findall(r"[\w.]+(?=\[)", text)
        return {"not Python"} if not ROLES.keys().isdisjoint(heads) else set()
    waiting, found = [tree], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            waiting += [node.left, node.right]
        elif isinstance(node, ast.Tuple):
            waiting += node.elts
        elif isinstance(node, ast.Subscript):
            head = ast.unparse(node.value)
            found |= {ROLES[head]} if head in ROLES else set()
            waiting += [node.slice] if head in (*ROLES, "list", "dict", "Union") else []
    return found


EDITS = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.sampled_from(
            ["", *"[](){}|,.:'\"\\ \n\0#*@=\ud800é", "Param", "Hyper[", "...", "\\N"]
        ),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=3,
)


@given(ANNOTATIONS, EDITS)
@FUZZING
def test_no_broken_annotation_loses_its_role(written, edits):
    text = written.text
    for place, new, length in edits:
        at = place % (len(text) + 1)
        text = text[:at] + new + text[at + length :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python's compiler, about what it reads
        expected = plain_roles(text)
        found = role_read(text)
    if len(expected) == 1:
        assert found is not None
        assert found in expected or "Fuzzed.x" in found, (text, found)
    elif expected:
        assert "Fuzzed.x" in found


@pytest.mark.parametrize("depth", [50, 99, 150, 1_000, 20_000])
@pytest.mark.parametrize(
    ("start", "end"),
    [("list[", "]"), ("Missing[", "]"), ("(", ")"), ("{", "}"), ("~", ""), ("Any | ", "")],
)
def test_nesting_is_refused_where_it_cannot_be_read(start, end, depth):
    for text, role in (("int", None), ("Param[int]", "param")):
        found = role_read(start * depth + text + end * depth)
        refused = role and str(found).startswith("Fuzzed.x: ") and len(found) < 400
        assert found == role or refused


# --- patterns and paths --------------------------------------------------------------

TEXTS = st.lists(
    st.sampled_from([*"ab.*[]'\"\\ é0", "**", ".**", "['a']", "[0]", ".a", "*.", "\n"]),
    max_size=9,
).map("".join)


def steps_of(text):
    """The steps of a pattern or a path by its grammar, `None` if it has none."""
    steps, rest, is_first = [], text, True
    while rest:
        is_bracket = rest.startswith("[")
        if not is_bracket and not is_first:
            if not rest.startswith("."):
                return None
            rest = rest[1:]
        length = bracket(rest) if is_bracket else word(rest)
        if not length:
            return None
        steps.append(rest[:length])
        rest, is_first = rest[length:], False
    return steps


def word(text):
    """How long the step is at the beginning of a text; it ends at a dot or a bracket."""
    length = 0
    while length < len(text) and text[length] not in ".[":
        length += 1
    step = text[:length]
    return 0 if "]" in step or "\0" in step or ("**" in step and step != "**") else length


def bracket(text):
    """How long the step in brackets is, which may hold brackets, and quotes that do."""
    length, is_open = 1, True
    while length < len(text) and text[length] != "]":
        if text[length] == "[":
            length += bracket(text[length:]) or len(text)
        elif text[length] in "'\"":
            length += quoted(text[length:]) or len(text)
        else:
            length += 1
    return length + is_open if length < len(text) else 0


def quoted(text):
    """How long the quoted part is at the beginning of a text."""
    length = 1
    while length < len(text) and text[length] != text[0]:
        length += 2 if text[length] == "\\" else 1
    return length + 1 if length < len(text) else 0


def fits(pattern, steps):
    """Whether steps fit those of a pattern."""
    if not pattern or not steps:
        return all(step == "**" for step in pattern) and not steps
    first, *others = pattern
    if first == "**":
        return fits(others, steps) or fits(pattern, steps[1:])
    return step_fits(first, steps[0]) and fits(others, steps[1:])


def step_fits(pattern, step):
    """Whether one step fits one of a pattern, in which `*` is any characters."""
    if not pattern:
        return not step
    if pattern[0] == "*":
        return step_fits(pattern[1:], step) or (step and step_fits(pattern, step[1:]))
    return step[:1] == pattern[0] and step_fits(pattern[1:], step[1:])


def agrees(pattern, path):
    """What is found of a pattern and a path, held against the reference."""
    parts, steps = steps_of(pattern), steps_of(path)
    if steps is not None:
        assert list(segments(path)) == steps
        assert join_all(steps) == path
    if not parts:
        with pytest.raises(anx.SelectionError, match="malformed"):
            compile_pattern(pattern)
        return "malformed"
    found = matches(compile_pattern(pattern), path)
    if steps is not None:
        assert found == bool(fits(parts, steps))
    return found


@pytest.mark.parametrize(("pattern", "path", "expected"), corpus("patterns"))
def test_patterns_that_were_hard_to_read(pattern, path, expected):
    assert agrees(pattern, path) == expected


@given(TEXTS, TEXTS)
@FUZZING
def test_patterns_are_read_by_their_grammar(pattern, path):
    agrees(pattern, path)


@given(
    st.lists(st.one_of(TEXTS, st.text(max_size=5), st.integers()), unique=True, max_size=4)
)
@FUZZING
def test_any_key_has_a_path_that_leads_to_it(keys):
    tree = [{key: [np.ones(1)]} for key in keys]
    paths = anx.everything.paths(tree)
    assert len(set(paths)) == len(keys)
    for path in paths:
        assert join_all(segments(path)) == path
        if "*" not in path:
            assert anx.by_path(path).paths(tree) == (path,)
        assert path in anx.by_path(path).paths(tree) or "**" in path


# --- checkpoints ---------------------------------------------------------------------

REAL = {
    "w": np.arange(6, dtype="float32").reshape(2, 3),
    "v": np.ones((2, 3), "float32"),
    "half": np.ones(4, jnp.bfloat16),
    "none": np.ones((0, 5), "int8"),
    "pair": np.ones(2, "complex128"),
    "key": jax.random.key(0),
    "rate": 0.5,
}
ABSTRACT = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x
    for name, x in REAL.items()
} | {"pair": REAL["pair"]}  # of numpy, or 64 bits would be asked for
METADATA, MANIFEST, CHECKSUMS = "__metadata__", "annotax", "annotax_crc32"
SEAL = "annotax_header_crc32"
OPTIONS = st.sampled_from(
    [
        *({}, {"strict": False}, {"hypers": "error"}, {"select": anx.by_path("w")}),
        *({"rename": {"v": "w", "w": "v"}}, {"strict": False, "rename": {"": "x"}}),
    ]
)
NUMBERS = (-1, 0, 1, 2, 6, 24, 0.5, float("nan"), float("inf"), 1 << 63, 10**30)
WORDS = ("", "w", "v", "pair", "F32", "U8", "BF16", "float32", "key<fry>", "rbg", "\ud800")
SCALARS = st.sampled_from([None, True, *NUMBERS, *WORDS])
JUNK = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
    max_leaves=4,
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "swap", "call"]), st.integers(0, 999), JUNK),
    max_size=3,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file, what its header says, its texts read as JSON, and the bytes behind it."""
    file = tmp_path_factory.mktemp("fuzzed") / "model.safetensors"
    anx.save(file, REAL)
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    for name in (MANIFEST, CHECKSUMS):
        header[METADATA][name] = json.loads(header[METADATA][name])
    return file, header, data[end:]


def places(value, path=()):
    """The paths of all there is in a value for JSON."""
    yield path
    pairs = enumerate(value) if isinstance(value, list) else ()
    for name, inside in value.items() if isinstance(value, dict) else pairs:
        yield from places(inside, (*path, name))


def at(value, path):
    for step in path:
        value = value[step]
    return value


def changed(header, changes):
    """A header with something put, dropped, swapped or called otherwise, in each change."""
    header = json.loads(json.dumps(header))
    for how, number, junk in changes:
        paths = list(places(header))[1:] if isinstance(header, dict) else []
        if not paths:
            return header
        *around, last = paths[number % len(paths)]
        owner, other = at(header, around), paths[number * 7 % len(paths)]
        if how == "swap":
            owner[last] = json.loads(json.dumps(at(header, other)))
        elif how == "put":
            owner[last] = junk
        elif how == "call" and isinstance(owner, dict):
            owner[str(junk)[:9]] = owner.pop(last)
        else:
            del owner[last]
    return header


def packed(header, data, *, is_sealed):
    """The bytes of a file with that header; its seal fits what it says, or what it said."""
    header = json.loads(json.dumps(header))
    metadata = metadata_of(header)
    if metadata:
        for name in {MANIFEST, CHECKSUMS} & metadata.keys():
            between = (",", ":") if name == MANIFEST else None  # as they are written
            metadata[name] = json.dumps(metadata[name], separators=between)
        if is_sealed:
            metadata.pop(SEAL, None)
            text = json.dumps(header, sort_keys=True)
            metadata[SEAL] = str(zlib.crc32(text.encode()))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def fate(file, data, options):
    """What `load` makes of the bytes of a file: `None` if it refuses them by its name.

    What is loaded is of the shapes and dtypes of the model, and takes no more memory than
    a few times the file.
    """
    file = file.with_name("changed.safetensors")
    file.write_bytes(data)
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", anx.CheckpointWarning)
            loaded = anx.load(file, ABSTRACT, **options)
    except anx.CheckpointError as error:
        return None if file.name in str(error) else {}
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000 + 64 * len(data)
    for name, array in ABSTRACT.items():
        if name != "rate":
            assert (loaded[name].shape, loaded[name].dtype) == (array.shape, array.dtype)
    return {
        name: x for name, x in loaded.items() if not isinstance(x, jax.ShapeDtypeStruct)
    }


def are_the_saved(arrays):
    return all(
        bool((x == REAL[name]).all()) for name, x in arrays.items() if name != "rate"
    )


@pytest.mark.parametrize(("what", "changes", "is_sealed", "expected"), corpus("headers"))
def test_headers_that_were_hard_to_judge(saved, what, changes, is_sealed, expected):
    file, header, data = saved
    header = json.loads(json.dumps(header))
    for path, new in changes:
        at(header, path[:-1])[path[-1]] = new
    loaded = fate(file, packed(header, data, is_sealed=is_sealed), {})
    assert ("refused" if loaded is None else "loaded") == expected


@given(CHANGES, st.booleans(), OPTIONS)
@FUZZING
def test_any_change_of_a_header_is_refused_or_fits(saved, changes, is_sealed, options):
    file, header, data = saved
    new = changed(header, changes)
    loaded = fate(file, packed(new, data, is_sealed=is_sealed), options)
    if same(new, header) and "rename" not in options:
        assert loaded
        assert are_the_saved(loaded)
    elif not is_sealed and loaded is not None:
        # Without manifest and checksums it is a file of somebody else, who has no seal.
        assert same(new, header) or not {MANIFEST, CHECKSUMS, SEAL} & set(metadata_of(new))


def same(one, other):
    """Whether two values are the same JSON: `true` is not `1` there."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def metadata_of(header):
    found = header.get(METADATA) if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}


@given(
    st.lists(
        st.tuples(st.integers(0, 9999), st.integers(0, 9), st.binary(max_size=9)),
        max_size=3,
    ),
    st.integers(0, 9999),
    OPTIONS,
)
@FUZZING
def test_any_change_of_bytes_is_refused(saved, edits, kept, options):
    file, header, data = saved
    whole = packed(header, data, is_sealed=True)
    new = whole
    for place, length, more in edits:
        start = place % (len(new) + 1)
        new = new[:start] + more + new[start + length :]
    new = new[: kept or None]
    loaded = fate(file, new, options)
    assert (loaded is not None) <= (new == whole)
