"""`save` and `load`: a model's arrays in one safetensors file, by path.

What is said of the arrays goes along in a manifest, so that loading can tell what does not
fit: other paths, shapes, dtypes, Hypers. Arrays over many machines are orbax's business.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import jax

from ._agreement import Agreement, compare, differing, misfit_message
from ._errors import (
    CheckpointError,
    CheckpointWarning,
    describe,
    explain_error,
    listing,
    rows,
)
from ._layout import leaf_role
from ._loading import held_by, manifest_of, read
from ._manifest import Manifest, SavedLeaf, classes, settings
from ._records import view_records
from ._rename import Rename
from ._saving import checkpoint_mask, stored_arrays
from ._select import everything
from ._selection import Selection
from ._tensor_file import TensorFile, write
from ._text import printable
from ._view import View, view

_Model = TypeVar("_Model")


def save(path: str | os.PathLike[str], model: Any, *, select: Any = everything) -> None:
    """Write the arrays of a model into one safetensors file, by path.

    Examples:
        >>> import annotax as anx, equinox as eqx, jax, pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = pathlib.Path(folder.name, "model.safetensors")
        >>> mlp = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
        >>> anx.save(file, mlp)
        >>> bool(eqx.tree_equal(anx.load(file, mlp), mlp))
        True
        >>> folder.cleanup()

    Saved is every array, whatever its role, except in fields with `persistent=False`; an
    array that stands in several places is saved once. The header of the file holds a
    manifest, too: roles, axes, tags and dtypes of the arrays, the classes of the modules,
    and the values of Hypers. Values that are no arrays, such as a step counted as an `int`,
    are there to be compared: `load` takes them from the model that it is given. The
    safetensors library alone can read the file; what its format has no dtype for is stored
    as bytes (complex128 as pairs, PRNG keys as their data).

    The file is written beside the old one, brought to the disk, and renamed: whatever
    happens, either of the two is there, and whole.

    **Arguments:**

    - `path`: of the file; its directory must exist.
    - `model`: any PyTree: a model, `Leaves`, `{"model": ..., "opt_state": ...}`.
    - `select`: what to save, `by_role(LoRA)` for instance.

    **Raises:** `CheckpointError`, by path, for what has no value (abstract, traced or
    deleted arrays), is not all in this process, or is of a dtype that JAX does not have:
    then nothing is written. `SelectionError` if `select` matches no array. `OSError` for a
    full disk, or a directory that does not exist.
    """
    where = _where("save", path)
    seen = view(model)
    mask = checkpoint_mask("save", seen, select)
    records = view_records(seen)
    chosen = [
        (records[at], seen.leaves[at]) for at, is_chosen in enumerate(mask) if is_chosen
    ]
    homes: dict[int, str] = {}  # of arrays that stand in several places, the first
    for record, leaf in chosen:
        homes.setdefault(id(leaf), record.path)
    arrays = stored_arrays(where, [(r, x) for r, x in chosen if homes[id(x)] == r.path])
    leaves = {
        record.path: SavedLeaf.of(record, arrays[homes[id(leaf)]], homes[id(leaf)])
        for record, leaf in chosen
    }
    manifest = Manifest(leaves, settings(seen), classes(seen))
    write(where, {name: array.data for name, array in arrays.items()}, manifest.to_json())


def load(
    path: str | os.PathLike[str],
    like: _Model,
    *,
    strict: bool = True,
    hypers: Literal["warn", "error", "ignore"] = "warn",
    rename: Rename = None,
    select: Any = everything,
) -> _Model:
    """A model with the arrays of a checkpoint.

    Examples:
        >>> import annotax as anx, jax, jax.numpy as jnp, pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = pathlib.Path(folder.name, "old.safetensors")
        >>> anx.save(file, {"encoder": {"w": jnp.ones(2)}, "head": jnp.zeros(3)})
        >>> like = {"body": {"w": jax.ShapeDtypeStruct((2,), "float32")}}
        >>> anx.load(file, like, rename={"encoder": "body", "head": None})
        {'body': {'w': Array([1., 1.], dtype=float32)}}
        >>> folder.cleanup()

    Everything but the arrays comes from `like`: classes, Hypers, fields with
    `persistent=False`. Frozen, adopted and plain models exchange checkpoints. Where an
    array of `like` says on which devices it lies, or how it is sharded, the loaded one is
    put there; where `like` has an array of numpy, or a weakly typed one, so has the result.
    `like` itself is not changed, and its arrays may be deleted.

    **Arguments:**

    - `path`: of a file from `save`, or any other safetensors file, such as a `state_dict`
      of PyTorch; that has no Hypers to compare and no checksums.
    - `like`: a model, an abstract one (`equinox.filter_eval_shape`), or another PyTree.
    - `strict`: whether all must fit: every selected array is in the file, with its shape
      and dtype, and nothing else is. Otherwise what does not fit stays as it is in `like`,
      and a warning lists it.
    - `hypers`: what follows if a Hyper (or another value that is no array) is there in both
      and not the same: `"warn"`, `"error"`, `"ignore"`. One that only the file or only the
      model has is not compared.
    - `rename`: from names in the file to paths in `like`. A mapping, whose keys are names
      or the steps they begin with, with `*` and `**` as in `by_path`; values take up the
      wildcards in their order (`{"blocks.*.lin": "layers.*.linear"}`). The first rule that
      fits counts; `""` is the beginning of every name. Or a function of a name. `None` as a
      new name leaves something out.
    - `select`: what to load. Other leaves stay as they are in `like`, and what else the
      file holds is passed over; so are the Hypers of modules with arrays of which none is
      selected.

    **Returns:** the model, of the structure of `like`.

    **Raises:** `CheckpointError`, with all problems in one, if something does not fit, or
    by its name a file that is damaged, truncated, or no checkpoint. `SelectionError` if
    `select` matches no array. Warns with `CheckpointWarning`.
    """
    where = _where("load", path)
    _insist_on_choice(hypers)
    seen = view(like)
    mask = checkpoint_mask("load", seen, select)
    _refuse_class(like)
    place = f"load({where!r}, {type(like).__name__})"
    with TensorFile(where) as file:
        held = held_by(place, manifest_of(file), rename)
        found = compare(seen, mask, held.leaves, whole=select is everything)
        here = settings(seen, None if select is everything else mask)
        other = {} if hypers == "ignore" else differing(held.settings, here)
        insisted = other if hypers == "error" else {}
        refused = found if strict or not found.fits_in_part else Agreement()
        if insisted or not refused.is_whole:
            is_renamed = rename is not None
            text = misfit_message(place, refused, insisted, is_renamed=is_renamed)
            raise CheckpointError(text)
        values = read(file, seen, found)
    notes = [] if found.is_whole else [_skipped_message(place, seen, found)]
    notes += [_differing_message(place, seen, other)] if other else []
    for note in [*notes, *_abstract_message(place, seen, select)]:
        warnings.warn(note, CheckpointWarning, stacklevel=2)
    return seen.treedef.unflatten(values)


# --- what does not fit ---------------------------------------------------------------


def _where(function: str, path: Any) -> str:
    if isinstance(path, str | bytes | os.PathLike):
        return os.fsdecode(cast("str | os.PathLike[str]", path))
    raise CheckpointError(
        explain_error(
            f"{function}({describe(path)}, ...)",
            "the path of the file comes first",
            expected="a path, then a model",
            fix=f"{function}(path, model)",
        )
    )


def _refuse_class(like: Any) -> None:
    if isinstance(like, type):
        raise CheckpointError(
            explain_error(
                f"load(..., {like.__name__})",
                "a class has no arrays to load",
                expected="a model, or an abstract one",
                found="a class",
                fix=f"eqx.filter_eval_shape({like.__name__}, ...) makes an abstract one",
            )
        )


def _insist_on_choice(hypers: Any) -> None:
    if hypers not in ("warn", "error", "ignore"):
        raise CheckpointError(
            explain_error(
                f"load(hypers={hypers!r})",
                "there is no such choice",
                expected='"warn", "error" or "ignore"',
            )
        )


def _skipped_message(place: str, seen: View, found: Agreement) -> str:
    places = seen.layout.paths
    kept = [seen.leaves[places[path]] for path in (*found.missing, *found.misfits)]
    stays = "where the file does not fit, the model is as it was"
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in kept)
    return explain_error(
        place,
        "only what fits was loaded",
        found=rows(found.lines()),
        fix=stays + ": abstract; annotax.replace gives values" * abstract,
    )


def _differing_message(place: str, seen: View, other: Mapping[str, str]) -> str:
    places = seen.layout.paths
    undeclared = [
        path
        for path in other
        if path in places and leaf_role(seen.layout.entries[places[path]], 0) is None
    ]
    numbers = [p for p in undeclared if isinstance(seen.leaves[places[p]], int | float)]
    fixes = ['those of the model hold; hypers="error" refuses, hypers="ignore" is silent']
    if numbers:
        fixes.append(f"to have a number loaded, make it an array: {listing(numbers)}")
    return explain_error(
        place,
        "values that are no arrays differ from those in the file"
        if undeclared
        else "Hypers differ from those in the file",
        found=rows([printable(f"{path}: {what}") for path, what in other.items()]),
        fix="\n".join(fixes),
    )


def _abstract_message(place: str, seen: View, select: Any) -> list[str]:
    """What stays abstract though it was meant: it is not for checkpoints."""
    flags = zip(
        seen.layout.entries, seen.leaves, Selection.of(select).mask(seen), strict=True
    )
    left = [
        entry.path
        for entry, leaf, flag in flags
        if flag and not entry.persistent and isinstance(leaf, jax.ShapeDtypeStruct)
    ]
    if not left:
        return []
    return [
        explain_error(
            place,
            "some leaves stay abstract, for checkpoints do not hold them",
            found=listing(left),
            fix="load into a real model, or give them values with annotax.replace",
        )
    ]
