"""The header of a safetensors file: written for arrays, and read with suspicion.

Stands apart from the file, for here is no disk, only text. It is judged here and not by the
safetensors library, which would open the file a second time, when it could be another, and
sees neither a name that stands twice nor a bit that has changed.
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from ._stored import CODES, NAMES

LONGEST = 100_000_000
"""The safetensors library reads none longer. Read, it takes up to 25 times as much."""

_METADATA = "__metadata__"
"""The name in a header that is no tensor's: it holds texts, by names of their own."""

_MANIFEST = "annotax"
"""Where the manifest stands in the metadata."""

_CHECKSUMS = "annotax_crc32"
"""Where the checksums of the tensors stand."""

_SEAL = "annotax_header_crc32"
"""Where the checksum of all else in the header stands."""

_CODES = {np.dtype(name): code for name, code in CODES.items()}
"""Numpy takes long to tell the name of a dtype."""

Array = np.ndarray[Any, Any]


class Tensor(NamedTuple):
    """Where a tensor stands in the file; `dtype` is the name that the format gives it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Header(NamedTuple):
    """What a header says; in a file that is not ours, no manifest and no checksums."""

    tensors: dict[str, Tensor]
    manifest: str | None
    checksums: Mapping[str, int]


# --- writing -------------------------------------------------------------------------


def header_of(
    arrays: Mapping[str, Array], manifest: str, checksums: Mapping[str, int]
) -> bytes:
    """The beginning of a file, up to the arrays, which follow in their order.

    **Raises:** `ValueError`, in a few words, if there is more to say than may be.
    """
    metadata = {_MANIFEST: manifest, _CHECKSUMS: json.dumps(checksums)}
    header: dict[str, Any] = {_METADATA: metadata}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        kind = {"dtype": _CODES[array.dtype], "shape": list(array.shape)}
        header[name] = {**kind, "data_offsets": [start, end]}
    metadata[_SEAL] = _seal(header)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers want what follows aligned
    if len(text) > LONGEST:
        raise ValueError(f"a header of {len(text):,} bytes; it may have {LONGEST:,}")
    return len(text).to_bytes(8, "little") + text


def _seal(header: Mapping[str, Any]) -> str:
    """The checksum of all that a header says, in whichever order."""
    return str(zlib.crc32(json.dumps(header, sort_keys=True).encode()))


# --- reading -------------------------------------------------------------------------


def parse_header(text: bytes, size: int) -> Header:
    """What the header of a file of `size` bytes says.

    **Raises:** `ValueError`, in a few words, unless it tells once of every byte.
    """
    try:
        told: Any = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a header that cannot be read ({error})") from error
    header = _object(told, "a header")
    metadata = _metadata(header)
    offset = 8 + len(text)
    tensors = {n: _tensor(n, header[n], offset) for n in header if n != _METADATA}
    _insist_on_tiles(tensors, offset, size)
    if metadata.keys().isdisjoint({_MANIFEST, _CHECKSUMS, _SEAL}):
        return Header(tensors, None, {})
    return _unsealed(header, metadata, tensors)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object.

    **Raises:** `ValueError` for a name that stands twice: of it, readers read either.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice!r:.80} twice")
    return found


def _object(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    raise ValueError(f"{what} that is no JSON object")


def _metadata(header: Mapping[str, Any]) -> dict[str, str]:
    metadata = header.get(_METADATA)
    if metadata is None:
        return {}
    texts = _object(metadata, "metadata")
    if all(isinstance(text, str) for text in texts.values()):
        return texts
    raise ValueError("metadata that is not all text")


def _tensor(name: str, told: Any, offset: int) -> Tensor:
    fields = ("dtype", "shape", "data_offsets")
    if isinstance(told, dict) and cast(Any, told).keys() == set(fields):
        dtype, shape, offsets = (cast(Any, told)[field] for field in fields)
        is_sound = isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets)
        if is_sound and len(offsets) == 2 and offsets[0] <= offsets[1]:
            return Tensor(dtype, tuple(shape), offset + offsets[0], offsets[1] - offsets[0])
    raise ValueError(f"no tensor under the name {name!r:.80}")


def _are_counts(value: Any) -> bool:
    """Whether this is a list as a shape: not longer than in numpy, of no huge numbers."""
    if not isinstance(value, list) or len(cast(Any, value)) > 64:
        return False
    return all(type(n) is int and 0 <= n < 1 << 63 for n in cast(list[Any], value))


def _insist_on_tiles(tensors: Mapping[str, Tensor], start: int, size: int) -> None:
    """Refuse tensors that overlap or leave gaps, or do not end where the file ends."""
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda pair: pair[1][2:]):
        if tensor.start != end:
            raise ValueError(f"a gap or an overlap before {name!r:.80}")
        if tensor.dtype in NAMES:
            itemsize = np.dtype(NAMES[tensor.dtype]).itemsize
            if tensor.size != math.prod(tensor.shape) * itemsize:
                kind = f"{tensor.dtype}{list(tensor.shape)}"
                raise ValueError(f"{tensor.size:,} bytes for {name!r:.80}, {kind}")
        end += tensor.size
    if end != size:
        raise ValueError(f"{size:,} bytes; its header tells of {end:,}")


def _unsealed(
    header: Mapping[str, Any], metadata: dict[str, str], tensors: dict[str, Tensor]
) -> Header:
    """What our own header says, if it is as it was written."""
    try:
        is_whole = metadata.pop(_SEAL) == _seal(header)
        checksums = json.loads(metadata[_CHECKSUMS], object_pairs_hook=unique)
        is_whole = is_whole and checksums.keys() == tensors.keys()
        found = Header(tensors, metadata[_MANIFEST], checksums)
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("a header that is not as it was written") from error
    if not is_whole:
        raise ValueError("a header that is not as it was written")
    return found
