"""One safetensors file: written whole or not at all, read with suspicion.

The safetensors library writes it and says whether a header is sound. Beyond that a file of
ours has checksums, of its header and of each tensor, and is refused if a bit has changed.
What comes out of here are plain numpy arrays and the text of the manifest.
"""

import importlib
import json
import os
import secrets
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ._errors import CheckpointError, explain_error
from ._stored import CODES, NAMES

MANIFEST = "annotax"
"""Where the manifest stands in the metadata of the file."""

CHECKSUMS = "annotax_crc32"
"""Where the checksums stand; never one without the other."""

_CHUNK = 1 << 22
"""So many bytes are read and summed at a time: they fit into a cache."""

_ALIGNMENT = 64
"""JAX takes over memory of numpy that begins at a multiple of this, and copies other."""

Array = np.ndarray[Any, Any]


class Tensor(NamedTuple):
    """Where a tensor stands in the file; `dtype` is the name that the format gives it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


# --- writing -------------------------------------------------------------------------


def write(path: str, arrays: Mapping[str, Array], manifest: str) -> None:
    """Write arrays and a manifest into one file, replacing what is there in one step.

    The new file is written beside the old one, brought to the disk, and renamed. Whatever
    happens, either of the two is there, and whole.
    """
    crcs = {name: zlib.crc32(_bytes_of(array)) for name, array in arrays.items()}
    kinds = {n: (CODES[a.dtype.name], list(a.shape)) for n, a in arrays.items()}
    checksums = {"header": _header_crc(manifest, kinds, crcs), "tensors": crcs}
    metadata = {MANIFEST: manifest, CHECKSUMS: json.dumps(checksums)}
    path = os.path.realpath(path)  # a link stays one
    with _beside(path) as temporary:
        try:
            _safetensors().numpy.save_file(arrays, temporary, metadata=metadata)
        except _safetensors().SafetensorError as error:  # a full disk, for instance
            raise CheckpointError(
                _message(path, "cannot be written", str(error))
            ) from error
        _sync(temporary)
        os.replace(temporary, path)
    _sync(os.path.dirname(path))


@contextmanager
def _beside(path: str) -> Generator[str]:
    """A new file in the directory of `path`, gone afterwards unless it was renamed."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _sync(path: str) -> None:
    """Have the disk hold a file, or the names in a directory (which Windows cannot)."""
    if os.name == "nt" and os.path.isdir(path):
        return
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_of(array: Any) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _header_crc(manifest: str, kinds: Mapping[str, Any], crcs: Mapping[str, int]) -> int:
    """The checksum of all that a header says."""
    told = [manifest, sorted(kinds.items()), sorted(crcs.items())]
    return zlib.crc32(json.dumps(told).encode())


def _safetensors() -> Any:
    """The library, imported when it is first needed: not everybody has it."""
    try:
        importlib.import_module("safetensors.numpy")
        return importlib.import_module("safetensors")
    except ImportError as error:
        raise ImportError(
            explain_error(
                "annotax.save and annotax.load",
                "these need the safetensors library",
                fix='pip install "annotax[checkpoint]"',
            )
        ) from error


# --- reading -------------------------------------------------------------------------


class TensorFile:
    """A safetensors file, opened; `manifest` is `None` in one that is not ours."""

    def __init__(self, path: str) -> None:
        self.path = path
        library = _safetensors()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed by `__exit__`
        try:
            with library.safe_open(path, "np"):
                pass  # the library has looked at the header
            self._read_header()
        except library.SafetensorError as error:
            self.__exit__()
            self.refuse("is no whole safetensors file", str(error), error)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_header(self) -> None:
        length = int.from_bytes(self._file.read(8), "little")
        text = self._file.read(min(length, os.fstat(self._file.fileno()).st_size))
        header = json.loads(text, object_pairs_hook=self._unique)
        metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.tensors = {
            name: Tensor(
                told["dtype"],
                tuple(told["shape"]),
                8 + length + told["data_offsets"][0],
                told["data_offsets"][1] - told["data_offsets"][0],
            )
            for name, told in header.items()
        }
        self.manifest = metadata.get(MANIFEST)
        self._crcs = self._checksums(metadata.get(CHECKSUMS))

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The pairs of a JSON object; whoever writes a name twice means to deceive."""
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self.refuse("has a name twice in its header", repr(twice))
        return found

    def _checksums(self, text: str | None) -> dict[str, int]:
        if text is None and self.manifest is None:
            return {}
        try:
            checksums = json.loads(text or "{}")
            crcs: dict[str, int] = checksums["tensors"]
            kinds = {n: (t.dtype, list(t.shape)) for n, t in self.tensors.items()}
            told, found = checksums["header"], _header_crc(self.manifest or "", kinds, crcs)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.refuse("is damaged", "checksums that cannot be read", error)
        if told != found or self.manifest is None or crcs.keys() != self.tensors.keys():
            self.refuse("is damaged", "a header that is not as it was written")
        return crcs

    def read(self, name: str) -> Array:
        """A tensor as an array of its own.

        Memory is asked for only here, and no more than the tensor has in the file.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in NAMES:
            self.refuse(f"holds {name!r} in a dtype that JAX does not have", tensor.dtype)
        raw: Any = np.empty(tensor.size + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        data = raw[start : start + tensor.size]
        crc = self._fill(memoryview(data), tensor.start)
        if name in self._crcs and crc != self._crcs[name]:
            self.refuse("is damaged", f"other bytes in {name!r} than were written")
        return data.view(np.dtype(NAMES[tensor.dtype])).reshape(tensor.shape)

    def _fill(self, buffer: memoryview, position: int) -> int:
        """Read into a buffer; the checksum of what was read."""
        self._file.seek(position)
        crc, filled = 0, 0
        while filled < len(buffer):
            count = self._file.readinto(buffer[filled : filled + _CHUNK])
            if not count:
                self.refuse("ended while it was read", f"{filled} bytes of {len(buffer)}")
            crc = zlib.crc32(buffer[filled : filled + count], crc)
            filled += count
        return crc

    def refuse(
        self, problem: str, found: str, cause: BaseException | None = None
    ) -> NoReturn:
        """Refuse the file, by its name."""
        raise CheckpointError(_message(self.path, problem, found)) from cause


def _message(path: str, problem: str, found: str) -> str:
    return explain_error(path, problem, found=found)
