"""One safetensors file: written whole or not at all, read with suspicion.

It is written here and not by the safetensors library, which renames a file of its own that
only its owner may read. What comes out of here are plain numpy arrays and the text of the
manifest; nobody is given more memory than the file has bytes.
"""

import errno
import os
import secrets
import stat
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, BinaryIO, NoReturn

import numpy as np

from ._errors import CheckpointError, explain_error
from ._stored import NAMES
from ._tensor_header import LONGEST, Array, Header, header_of, parse_header

_CHUNK = 1 << 22
"""So many bytes are read and summed at a time: they fit into a cache."""

_ALIGNMENT = 64
"""JAX takes over memory of numpy that begins at a multiple of this, and copies other."""

_UNSYNCED = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP}
"""What systems say that do not sync directories."""


# --- writing -------------------------------------------------------------------------


def write(path: str, arrays: Mapping[str, Array], manifest: str) -> None:
    """Write arrays and a manifest into one file, replacing what is there in one step.

    The new file is written beside the old one, brought to the disk, and renamed. Whatever
    happens, either of the two is there, and whole. What is killed meanwhile leaves a file
    `.annotax-*.tmp`, too.
    """
    path = os.path.realpath(path)  # a link stays one
    # The largest items first: so each array begins at a multiple of its items' size.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    arrays = {name: arrays[name] for name in order}
    tensors = {name: _bytes_of(array) for name, array in arrays.items()}
    try:
        header = header_of(arrays, manifest, _checksums(tensors))
    except ValueError as error:
        raise CheckpointError(_message(path, "cannot be written", str(error))) from error
    with _beside(path) as (file, temporary):
        for data in (header, *tensors.values()):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        file.close()  # Windows renames no open file
        os.replace(temporary, path)
    _sync_directory(os.path.dirname(path))


@contextmanager
def _beside(path: str) -> Generator[tuple[BinaryIO, str]]:
    """A new file in the directory of `path`, gone afterwards unless it was renamed.

    It is for the same eyes as the old one, from its first byte on.
    """
    mode, folder = _mode(path), os.path.dirname(path)
    if not os.path.exists(folder):  # said of it, and not of a name that nobody gave
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    name = f".annotax-{secrets.token_hex(8)}.tmp"  # short: `path` may be as long as can be
    temporary = os.path.join(folder, name)
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.chmod(temporary, mode)
            yield file, temporary
    finally:
        with suppress(OSError):
            os.remove(temporary)


def _mode(path: str) -> int | None:
    """The permissions of a file, `None` if there is none.

    **Raises:** `CheckpointError` for what is no file: a pipe would be waited for.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        found = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise CheckpointError(_message(path, "is no file", found))
    return stat.S_IMODE(mode)


def _sync_directory(path: str) -> None:
    """Have the disk hold the names in a directory, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise


def _bytes_of(array: Any) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _checksums(tensors: Mapping[str, memoryview]) -> dict[str, int]:
    """The checksums of tensors. Threads help with large ones: zlib lets go of Python."""
    found = dict.fromkeys(tensors, 0)
    waiting = iter(list(tensors))

    def fill() -> None:
        for name in waiting:
            found[name] = zlib.crc32(tensors[name])

    helpers = [Thread(target=fill) for _ in range(min(os.cpu_count() or 1, 8) - 1)]
    with suppress(RuntimeError):  # at the end of a program no thread starts any more
        for helper in helpers:
            helper.start()
    fill()
    for helper in helpers:
        if helper.is_alive():
            helper.join()
    return found


# --- reading -------------------------------------------------------------------------


class TensorFile:
    """A safetensors file, opened; `manifest` is `None` in one that is not ours."""

    def __init__(self, path: str) -> None:
        self.path = path
        _mode(path)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 -- closed by `__exit__`
        try:
            self.tensors, self.manifest, self._checksums = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _header(self) -> Header:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        if length > min(size - 8, LONGEST):
            found = f"a header of {length:,} bytes in a file of {size:,}"
            self.refuse("is no whole safetensors file", found)
        try:
            return parse_header(self._file.read(length), size)
        except ValueError as error:
            self.refuse("is no whole safetensors file", str(error), error)

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
        checksum = self._fill(memoryview(data), tensor.start)
        if self.manifest is not None and checksum != self._checksums[name]:
            self.refuse("is damaged", f"other bytes in {name!r} than were written")
        try:
            return data.view(np.dtype(NAMES[tensor.dtype])).reshape(tensor.shape)
        except ValueError as error:  # no elements, but huge axes
            found = str(list(tensor.shape))
            self.refuse(f"holds {name!r} in a shape that numpy does not have", found, error)

    def _fill(self, buffer: memoryview, position: int) -> int:
        """Read into a buffer; the checksum of what was read."""
        self._file.seek(position)
        checksum, filled = 0, 0
        while filled < len(buffer):
            count = self._file.readinto(buffer[filled : filled + _CHUNK])
            if not count:
                self.refuse("ended while it was read", f"{filled} bytes of {len(buffer)}")
            checksum = zlib.crc32(buffer[filled : filled + count], checksum)
            filled += count
        return checksum

    def refuse(
        self, problem: str, found: str, cause: BaseException | None = None
    ) -> NoReturn:
        """Refuse the file, by its name."""
        raise CheckpointError(_message(self.path, problem, found)) from cause


def _message(path: str, problem: str, found: str) -> str:
    return explain_error(path, problem, found=found)
