"""The file of a checkpoint: replaced in one step, and read with suspicion."""

import errno
import json
import math
import os
import pathlib
import pickle
import stat
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import zlib

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from hypothesis import given
from safetensors.numpy import load_file, save_file

import annotax as anx
from annotax import _tensor_file, _tensor_header
from annotax._tensor_file import TensorFile, write
from annotax._tensor_header import header_of

SCRIPTS = pathlib.Path(__file__).parent / "checkpoint_scripts"


def model(number=1):
    """Small, with what makes a file difficult: several dtypes, a scalar, no elements."""
    return {
        "weight": jnp.full((2, 3), number, "float32"),
        "bias": jnp.full(3, number, "bfloat16"),
        "count": jnp.int32(number),
        "none": jnp.zeros((2, 0), "float16"),
        "größe": np.array([True, False, True]),
    }


def same(a, b):
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and (a[n] == b[n]).all()
        for n in a
    )


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def file_of(header, data=b""):
    """The bytes of a safetensors file; the header as text, or to be written as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def forged(arrays, manifest):
    """The bytes of a file of ours whose checksums are right, whatever its manifest says."""
    crcs = {name: zlib.crc32(a.tobytes()) for name, a in arrays.items()}
    return header_of(arrays, manifest, crcs) + b"".join(
        a.tobytes() for a in arrays.values()
    )


def contents(path):
    """All that is in a file, read below `load`."""
    with TensorFile(str(path)) as opened:
        return {name: opened.read(name) for name in opened.tensors}


def refused(path, read=contents):
    """The message with which a file is refused, by its name."""
    with pytest.raises(anx.CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def text(block):
    return textwrap.dedent(block).strip("\n")


# --- written in one step -------------------------------------------------------------


def run(name, path):
    """What a function of the script `killed.py` says."""
    command = [sys.executable, "-W", "ignore:.*fork", SCRIPTS / "killed.py", name, path]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return {int(number): times for number, times in json.loads(ended.stdout).items()}


def test_killed_before_any_line_it_is_the_old_file_or_the_new_one(file):
    outcomes = run("killed_at_every_line", file)
    assert outcomes.keys() == {1, 2}
    assert min(outcomes.values()) > 3
    left = set(os.listdir(file.parent)) - {file.name}
    assert left  # so it was killed in the middle, too
    assert all(name.startswith(".annotax-") and name.endswith(".tmp") for name in left)


def test_killed_at_any_time_it_is_one_whole_file(file):
    outcomes = run("killed_at_random", file)
    assert sum(outcomes.values()) == 40


def test_many_processes_that_save_to_one_path(file):
    assert sum(run("written_by_many", file).values()) > 3
    assert os.listdir(file.parent) == [file.name]


def test_many_threads_that_save_to_one_path(file):
    anx.save(file, model(0))
    threads = [
        threading.Thread(target=lambda n=n: [anx.save(file, model(n)) for _ in range(10)])
        for n in range(1, 4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        loaded = anx.load(file, model())
        assert same(loaded, model(int(loaded["count"])))
    assert int(anx.load(file, model())["count"]) > 0
    assert os.listdir(file.parent) == [file.name]


STEPS = ["open", "chmod", "write", "flush", "fsync", "close", "replace"]


def failing(monkeypatch, step, error):
    """Have one step of writing fail."""

    def fail(*_):
        raise error

    if step in ("chmod", "fsync", "replace"):
        monkeypatch.setattr(os, step, fail)
        return
    really_open = open

    def opened(path, mode="r", **options):
        if mode != "xb":
            return really_open(path, mode, **options)
        if step == "open":
            fail()
        found = really_open(path, mode, **options)
        return Failing(found, step, fail)

    monkeypatch.setattr(_tensor_file, "open", opened, raising=False)


class Failing:
    """A file of which one method fails once."""

    def __init__(self, file, step, fail):
        self.file, self.step, self.fail = file, step, fail

    def __getattr__(self, name):
        if name == self.step:
            self.step = None
            return self.fail
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_no_other(file, monkeypatch, step, error):
    anx.save(file, model(1))
    with monkeypatch.context() as patch:
        failing(patch, step, error)
        with pytest.raises(type(error)) as caught:
            anx.save(file, model(2))
    assert caught.value is error
    assert os.listdir(file.parent) == [file.name]
    assert same(anx.load(file, model()), model(1))
    anx.save(file, model(3))
    assert same(anx.load(file, model()), model(3))


@pytest.mark.parametrize("step", [step for step in STEPS if step != "chmod"])
def test_what_fails_at_first_leaves_nothing(file, monkeypatch, step):
    failing(monkeypatch, step, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        anx.save(file, model())
    assert os.listdir(file.parent) == []


def test_a_full_disk(file):
    resource = pytest.importorskip("resource")
    anx.save(file, model(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # for each file
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            anx.save(file, {"large": np.zeros(200_000, np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(file.parent) == [file.name]
    assert same(anx.load(file, model()), model(1))


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no-such'$"):
        anx.save(tmp_path / "no-such" / "model", model())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        anx.save(tmp_path / "file" / "model", model())
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions")
def test_a_directory_that_may_not_be_written(file, monkeypatch):
    anx.save(file, model(1))
    if os.geteuid() == 0:  # who may write everywhere

        def denied(path, *_):
            raise PermissionError(errno.EACCES, "denied", path)

        monkeypatch.setattr(_tensor_file, "open", denied, raising=False)
    file.parent.chmod(0o500)
    with pytest.raises(PermissionError):
        anx.save(file, model(2))
    file.parent.chmod(0o700)
    monkeypatch.undo()
    assert os.listdir(file.parent) == [file.name]
    assert same(anx.load(file, model()), model(1))


def test_it_is_on_the_disk_before_it_gets_its_name_and_the_name_afterwards(
    file, monkeypatch
):
    anx.save(file, model(1))
    seen, really_sync, really_replace = [], os.fsync, os.replace

    def sync(descriptor):
        found = os.fstat(descriptor)
        seen.append(("fsync", found.st_ino, found.st_size))
        really_sync(descriptor)

    def replace(old, new):
        seen.append(("replace", os.stat(old).st_ino, os.stat(old).st_size))
        assert (os.path.dirname(old), new) == (str(file.parent), str(file))
        really_replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    anx.save(file, model(2))
    new, directory = [(at.stat().st_ino, at.stat().st_size) for at in (file, file.parent)]
    assert seen == [("fsync", *new), ("replace", *new), ("fsync", *directory)]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EACCES, errno.EIO])
def test_directories_are_synced_where_a_system_can(file, monkeypatch, code):
    really_open = os.open

    def opened(path, *rest):
        if os.path.isdir(path):
            raise OSError(code, "no")
        return really_open(path, *rest)

    monkeypatch.setattr(os, "open", opened)
    if code == errno.EIO:
        with pytest.raises(OSError, match="no"):
            anx.save(file, model())
    else:
        anx.save(file, model())
    monkeypatch.undo()
    assert same(anx.load(file, model()), model())


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_new_file_has_the_permissions_of_any_new_file(file, mask):
    before = os.umask(mask)
    try:
        anx.save(file, model())
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_a_file_keeps_its_permissions_at_all_times(file, mode, monkeypatch):
    anx.save(file, model(1))
    file.chmod(mode)
    during, really_sync = [], os.fsync

    def sync(descriptor):
        during.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    anx.save(file, model(2))
    assert stat.S_IMODE(file.stat().st_mode) == mode == during[0]
    assert same(anx.load(file, model()), model(2))


@pytest.mark.parametrize("processors", [1, 3, 64, None])
def test_the_same_arrays_are_the_same_bytes(file, monkeypatch, processors):
    anx.save(file, model())
    before = file.read_bytes()
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    anx.save(file, model())
    assert file.read_bytes() == before


def test_a_file_can_be_saved_when_python_ends(file):
    """As a last thing, when no thread can be started any more."""
    code = f"""
import atexit, numpy, annotax
atexit.register(lambda: annotax.save({str(file)!r}, {{"a": numpy.ones(3)}}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    assert (contents(file)["a"] == 1).all()


def test_a_link_stays_one(tmp_path):
    (tmp_path / "runs").mkdir()
    link, real = tmp_path / "latest", tmp_path / "runs" / "7"
    link.symlink_to(pathlib.Path("runs", "7"))
    for number in (1, 2):
        anx.save(link, model(number))
        assert link.is_symlink()
        assert same(anx.load(real, model()), model(number))
    assert os.listdir(tmp_path / "runs") == ["7"]


@pytest.mark.parametrize(
    "name", ["model", "r\u00e9seau \u6a21\u578b\n", "n" * 255, "-", "\udcff"]
)
@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fsencode])
def test_names_of_files(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    for path in (kind(name), kind(str(tmp_path / name))):
        anx.save(path, model())
        assert os.listdir() == [name]
        assert same(anx.load(path, model()), model())


def kinds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return [tmp_path, tmp_path / "pipe", "/dev/null", "/dev/zero"]


@pytest.mark.skipif(os.name == "nt", reason="no pipes by name")
def test_what_is_no_file(tmp_path):
    for path in kinds(tmp_path):
        before = os.stat(path)
        for use in (lambda p: anx.load(p, model()), lambda p: anx.save(p, model())):
            assert refused(path, use) == text(
                f"""
                is no file
                  found:    {"a directory" if path == tmp_path else "a pipe or a device"}
                """
            )
        assert os.stat(path).st_ino == before.st_ino
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_header_longer_than_anybody_reads(file, monkeypatch):
    anx.save(file, model(1))
    monkeypatch.setattr(_tensor_header, "LONGEST", 80)
    found = refused(file, lambda path: write(str(path), {"a": np.zeros(2, "int8")}, "{}"))
    assert found == text(
        """
        cannot be written
          found:    a header of 160 bytes; it may have 80
        """
    )
    monkeypatch.undo()
    assert os.listdir(file.parent) == [file.name]
    assert same(anx.load(file, model()), model(1))


# --- read by others ------------------------------------------------------------------

DTYPES = sorted(_tensor_header.CODES)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(DTYPES),
            st.lists(st.integers(0, 3), max_size=3),
            st.binary(min_size=8, max_size=8),
        ),
        max_size=6,
    ),
    st.text(max_size=20),
)
def test_the_library_alone_reads_what_is_written(tmp_path_factory, drawn, manifest):
    path = str(tmp_path_factory.getbasetemp() / "library.safetensors")
    arrays = {}
    for name, (dtype, shape, seed) in drawn.items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        data = np.frombuffer((seed * 27)[:size].ljust(size, b"x"), np.uint8)
        data = data & 1 if dtype == "bool" else data
        arrays[name] = data.view(dtype).reshape(shape)
    write(path, arrays, manifest)
    found = contents(path)
    assert found.keys() == arrays.keys()
    with safetensors.safe_open(path, "np") as opened:
        assert opened.metadata()["annotax"] == manifest
        assert set(opened.keys()) == arrays.keys()
        for name, array in arrays.items():
            told = opened.get_slice(name)
            assert told.get_shape() == list(array.shape)
            assert told.get_dtype() == _tensor_header.CODES[array.dtype.name]
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()
    tensors = dict(safetensors.deserialize(pathlib.Path(path).read_bytes()))
    for name, array in arrays.items():
        assert bytes(tensors[name]["data"]) == array.tobytes()


def test_each_tensor_begins_where_its_items_can_be_read(file):
    arrays = {f"{n}": np.ones(3, dtype) for n, dtype in enumerate(DTYPES)}
    write(str(file), arrays, "{}")
    with TensorFile(str(file)) as opened:
        assert opened.tensors.keys() == arrays.keys()
        for name, tensor in opened.tensors.items():
            assert tensor.start % arrays[name].itemsize == 0
            data = opened.read(name).ctypes.data
            assert data % 64 == 0  # which JAX takes over


def test_what_the_library_writes_is_read(file):
    arrays = {name: np.asarray(array) for name, array in model().items()}
    save_file(arrays, file, metadata={"format": "np"})
    assert same(contents(file), arrays)
    with TensorFile(str(file)) as opened:
        assert opened.manifest is None
    save_file({}, file)
    assert contents(file) == {}


def test_the_arrays_of_a_file_are_the_readers_own(file):
    anx.save(file, {"a": np.zeros(3)})
    first, second = contents(file)["a"], contents(file)["a"]
    first += 1
    assert (second == 0).all()
    assert (contents(file)["a"] == 0).all()


# --- read with suspicion -------------------------------------------------------------

VALID = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = np.float32([1, 2]).tobytes()
LONG = "n" * 200


def entry(**changes):
    return {"w": {**VALID, **changes}}


def two(first, second):
    return {"v": {**VALID, "data_offsets": first}, "w": {**VALID, "data_offsets": second}}


def text_entry(body):
    return b'{"w": {' + body + b"}}"


NO_TENSOR = "no tensor under the name 'w'"
UNREAD = "a header that cannot be read"
UNDECODED = "'utf-8' codec can't decode byte 0xff"
OBJECT = b'"dtype":"F32","shape":[2],"data_offsets":[0,8]'

REFUSED = {
    # The file has to be as long as its header says, to the byte.
    "empty": (b"", "a header of 0 bytes in a file of 0"),
    "short": (b"\x02\0\0", "a header of 2 bytes in a file of 3"),
    "no header": (bytes(8), f"{UNREAD} (Expecting value: line 1 column 1 (char 0))"),
    "too long": ((9).to_bytes(8, "little") + b"{}", "a header of 9 bytes in a file of 10"),
    "all ones": (
        b"\xff" * 8 + b"{}",
        "a header of 18,446,744,073,709,551,615 bytes in a file of 10",
    ),
    "truncated": (file_of(entry(), DATA[:-1]), "76 bytes; its header tells of 77"),
    "trailing": (file_of(entry(), DATA + b"x"), "78 bytes; its header tells of 77"),
    "trailing, no tensors": (file_of({}, b"x"), "11 bytes; its header tells of 10"),
    "huge": (
        file_of(entry(shape=[1 << 40], data_offsets=[0, 1 << 42]), DATA),
        "101 bytes; its header tells of 4,398,046,511,197",
    ),
    # JSON
    "text": (file_of(b"no json"), f"{UNREAD} (Expecting value: line 1 column 1 (char 0))"),
    "half": (
        file_of(b'{"w": '),
        f"{UNREAD} (Expecting value: line 1 column 7 (char 6))",
    ),
    "more": (file_of(b"{} {}"), f"{UNREAD} (Extra data: line 1 column 4 (char 3))"),
    "a list": (file_of([]), "a header that is no JSON object"),
    "a number": (file_of(1), "a header that is no JSON object"),
    "not UTF-8": (
        file_of(b'{"\xff": 1}'),
        f"{UNREAD} ({UNDECODED} in position 2: invalid start byte)",
    ),
    "UTF-16": (
        file_of("{}".encode("utf-16")),
        f"{UNREAD} ({UNDECODED} in position 0: invalid start byte)",
    ),
    # A name that stands twice
    "name twice": (
        file_of(b'{"w":{%b},"w":{%b}}' % (OBJECT, OBJECT), DATA),
        f"{UNREAD} (the name 'w' twice)",
    ),
    "escaped name twice": (
        file_of(b'{"w":{%b},"\\u0077":{%b}}' % (OBJECT, OBJECT), DATA),
        f"{UNREAD} (the name 'w' twice)",
    ),
    "long name twice": (
        file_of(f'{{"{LONG}":1,"{LONG}":1}}'.encode()),
        f"{UNREAD} (the name '{LONG[:79]} twice)",
    ),
    "dtype twice": (
        file_of(text_entry(b'"dtype":"F32",' + OBJECT), DATA),
        f"{UNREAD} (the name 'dtype' twice)",
    ),
    "metadata twice": (
        file_of(b'{"__metadata__":{"a":"1","a":"2"}}'),
        f"{UNREAD} (the name 'a' twice)",
    ),
    "two metadata": (
        file_of(b'{"__metadata__":{},"__metadata__":{}}'),
        f"{UNREAD} (the name '__metadata__' twice)",
    ),
    "metadata list": (
        file_of({"__metadata__": []}),
        "metadata that is no JSON object",
    ),
    "metadata number": (
        file_of({"__metadata__": {"format": 1}}),
        "metadata that is not all text",
    ),
    # Tensors
    "tensor null": (file_of({"w": None}), NO_TENSOR),
    "tensor list": (file_of({"w": ["F32", [2], [0, 8]]}, DATA), NO_TENSOR),
    "tensor text": (file_of({"w": "dtype"}), NO_TENSOR),
    "long name": (file_of({LONG: 1}), f"no tensor under the name '{LONG[:79]}"),
    "no dtype": (file_of({"w": {"shape": [2], "data_offsets": [0, 8]}}, DATA), NO_TENSOR),
    "more fields": (file_of(entry(strides=[4]), DATA), NO_TENSOR),
    "dtype number": (file_of(entry(dtype=32), DATA), NO_TENSOR),
    "dtype list": (file_of(entry(dtype=["F32"]), DATA), NO_TENSOR),
    "shape number": (file_of(entry(shape=2), DATA), NO_TENSOR),
    "shape text": (file_of(entry(shape="2"), DATA), NO_TENSOR),
    "shape object": (file_of(entry(shape={}, data_offsets=[0, 4]), DATA[:4]), NO_TENSOR),
    "shape float": (file_of(entry(shape=[2.0]), DATA), NO_TENSOR),
    "shape flag": (file_of(entry(shape=[2, True]), DATA), NO_TENSOR),
    "shape negative": (file_of(entry(shape=[-2, -1]), DATA), NO_TENSOR),
    "shape nested": (file_of(entry(shape=[[2]]), DATA), NO_TENSOR),
    "shape huge": (file_of(entry(shape=[0, 1 << 63], data_offsets=[0, 0])), NO_TENSOR),
    "shape long": (file_of(entry(shape=[2] + [1] * 64), DATA), NO_TENSOR),
    "one offset": (file_of(entry(data_offsets=[8]), DATA), NO_TENSOR),
    "three offsets": (file_of(entry(data_offsets=[0, 4, 8]), DATA), NO_TENSOR),
    "offset text": (file_of(entry(data_offsets=["0", "8"]), DATA), NO_TENSOR),
    "offset negative": (file_of(entry(data_offsets=[-8, 0]), DATA), NO_TENSOR),
    "offset huge": (file_of(entry(data_offsets=[0, 1 << 64]), DATA), NO_TENSOR),
    "offsets reversed": (file_of(entry(data_offsets=[8, 0]), DATA), NO_TENSOR),
    "more bytes": (file_of(entry(shape=[1]), DATA), "8 bytes for 'w', F32[1]"),
    "fewer bytes": (file_of(entry(shape=[2, 2]), DATA), "8 bytes for 'w', F32[2, 2]"),
    "no bytes": (
        file_of(entry(shape=[1 << 40], data_offsets=[0, 0])),
        "0 bytes for 'w', F32[1099511627776]",
    ),
    "overflow": (
        file_of(entry(shape=[1 << 62, 4], data_offsets=[0, 0])),
        "0 bytes for 'w', F32[4611686018427387904, 4]",
    ),
    "overlap": (
        file_of(two([0, 8], [4, 12]), DATA + DATA),
        "a gap or an overlap before 'w'",
    ),
    "one place": (file_of(two([0, 8], [0, 8]), DATA), "a gap or an overlap before 'w'"),
    "gap": (file_of(two([0, 8], [16, 24]), DATA * 3), "a gap or an overlap before 'w'"),
    "gap at first": (
        file_of(entry(data_offsets=[4, 12]), b"gap!" + DATA),
        "a gap or an overlap before 'w'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_whole_file(file, case):
    data, found = REFUSED[case]
    file.write_bytes(data)
    message = refused(file)
    assert " ".join(message.split()) == f"is no whole safetensors file found: {found}"
    assert refused(file, lambda path: anx.load(path, model())) == message


def test_nesting_is_no_danger(file):
    for header in (b"[" * 1_000_000, b'{"w":' * 200_000, b'{"w":{"dtype":' + b"[" * 99_999):
        file.write_bytes(file_of(header))
        assert refused(file).startswith("is no whole safetensors file\n")


def test_numbers_of_endless_digits(file):
    file.write_bytes(file_of(text_entry(OBJECT.replace(b"2", b"2" * 100_000)), DATA))
    assert refused(file).startswith("is no whole safetensors file\n")


class Evil:
    """What would tell if it were unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("executed",))


def test_files_of_other_kinds(file):
    np.savez(file.with_suffix(".npz"), a=np.array([Evil()], object))
    np.save(file.with_suffix(".npy"), np.array([Evil()], object))
    file.with_suffix(".pkl").write_bytes(pickle.dumps(Evil()))
    file.with_suffix(".txt").write_text("model")
    random = np.random.default_rng(0)
    for number in range(200):
        file.with_suffix(f".{number}").write_bytes(random.bytes(int(random.integers(200))))
    for other in file.parent.iterdir():
        assert refused(other).startswith("is no whole safetensors file\n")


def test_a_file_cut_off_anywhere(file):
    anx.save(file, model())
    whole = file.read_bytes()
    assert len(whole) < 1200
    for end in reversed(range(len(whole))):
        os.truncate(file, end)
        found = refused(file)
        assert found.startswith("is no whole safetensors file\n")
        if end % 50 == 0:
            assert refused(file, lambda path: anx.load(path, model())) == found


def test_any_bit_that_is_not_as_it_was(file):
    anx.save(file, model())
    whole = file.read_bytes()
    with open(file, "r+b", buffering=0) as writing:
        for at, byte in enumerate(whole):
            for bit in range(8):
                writing.seek(at)
                writing.write(bytes([byte ^ 1 << bit]))
                refused(file)
            if at % 10 == 0:
                refused(file, lambda path: anx.load(path, model()))
            writing.seek(at)
            writing.write(bytes([byte]))
    assert same(anx.load(file, model()), model())


@given(
    st.lists(
        st.tuples(st.integers(0, 1200), st.integers(0, 20), st.binary(max_size=20)),
        min_size=1,
        max_size=4,
    )
)
def test_any_bytes_that_are_not_as_they_were(tmp_path_factory, edits):
    file = tmp_path_factory.getbasetemp() / "edited.safetensors"
    anx.save(file, model())
    whole = changed = file.read_bytes()
    for at, gone, new in edits:
        changed = changed[:at] + new + changed[at + gone :]
    file.write_bytes(changed)
    if changed.rstrip() != whole.rstrip():
        refused(file)
        refused(file, lambda path: anx.load(path, model()))


def test_what_a_damaged_file_says(file):
    anx.save(file, {"layers": {"weight": np.ones(3)}})
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\1")
    assert refused(file) == text(
        """
        is damaged
          found:    other bytes in 'layers.weight' than were written
        """
    )
    like = {"layers": {"weight": np.zeros(3)}}
    assert refused(file, lambda path: anx.load(path, like)) == refused(file)
    file.write_bytes(whole.replace(b'\\"version\\":1', b'\\"version\\":2'))
    assert refused(file) == text(
        """
        is no whole safetensors file
          found:    a header that is not as it was written
        """
    )


def resealed(file, **changes):
    """A file whose header was changed, with the seal that belongs to it."""
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"] |= changes
    metadata = header["__metadata__"]
    for name in [name for name, value in changes.items() if value is None]:
        del metadata[name]
    seal = metadata.pop("annotax_header_crc32", None)
    if seal is not None:
        told = json.dumps(header, sort_keys=True)
        metadata["annotax_header_crc32"] = str(zlib.crc32(told.encode()))
    return file_of(header, whole[8 + length :])


@pytest.mark.parametrize("name", ["annotax", "annotax_crc32", "annotax_header_crc32"])
def test_manifest_and_checksums_are_never_one_without_the_other(file, name):
    anx.save(file, model())
    file.write_bytes(resealed(file))
    assert same(anx.load(file, model()), model())
    file.write_bytes(resealed(file, **{name: None}))
    assert "a header that is not as it was written" in refused(file)


@pytest.mark.parametrize(
    "checksums",
    [
        *("", "{}", "[]", "1", "null", "{", "[" * 100_000),
        '{"a":0}',
        '{"a":0,"b":0,"b":0}',
        '{"a":"0","b":null}',
        '{"a":0,"b":[]}',
        '{"a":0.5,"b":1e999}',
    ],
)
def test_checksums_that_are_none(file, checksums):
    anx.save(file, {"a": np.zeros(2), "b": np.zeros(3)})
    file.write_bytes(resealed(file, annotax_crc32=checksums))
    refused(file)


def test_checksums_that_stand_twice(file):
    anx.save(file, {"a": np.zeros(2)})
    crc = zlib.crc32(bytes(16))
    file.write_bytes(resealed(file, annotax_crc32=f'{{"a":{crc}}}'))
    assert contents(file).keys() == {"a"}
    file.write_bytes(resealed(file, annotax_crc32=f'{{"a":0,"a":{crc}}}'))
    refused(file)


def test_tensors_of_no_elements_stand_anywhere(file):
    for at in (0, 8):
        none = {"dtype": "I8", "shape": [0], "data_offsets": [at, at]}
        file.write_bytes(file_of({**entry(), "none": none}, DATA))
        assert contents(file)["none"].shape == (0,)
        assert contents(file).keys() == load_file(file).keys() == {"w", "none"}


def test_a_file_that_is_not_ours_has_nothing_to_compare(file):
    save_file({"a": np.zeros(3)}, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\1")
    assert contents(file)["a"].any()


def test_dtypes_that_jax_does_not_have(file):
    header = {
        "a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]},
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]},
    }
    file.write_bytes(file_of(header, b"abcde"))
    with TensorFile(str(file)) as opened:
        assert opened.read("b").tobytes() == b"de"  # what is asked for is there
    assert refused(file) == text(
        """
        holds 'a' in a dtype that JAX does not have
          found:    F6_E2M3
        """
    )


def test_shapes_that_numpy_does_not_have(file):
    shape = [1 << 62, 0, 1 << 62]
    file.write_bytes(file_of(entry(shape=shape, data_offsets=[0, 0])))
    assert refused(file) == text(
        """
        holds 'w' in a shape that numpy does not have
          found:    [4611686018427387904, 0, 4611686018427387904]
        """
    )


def test_a_file_that_shrinks_while_it_is_read(file):
    anx.save(file, {"a": np.zeros(1000, np.int8)})
    with TensorFile(str(file)) as opened:
        os.truncate(file, file.stat().st_size - 600)
        assert refused(file, lambda _: opened.read("a")) == text(
            """
            ended while it was read
              found:    400 bytes of 1000
            """
        )


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no open file")
def test_a_file_that_is_replaced_while_it_is_read(file):
    anx.save(file, model(1))
    with TensorFile(str(file)) as opened:
        anx.save(file, {"weight": np.zeros(99)})
        old = {name: opened.read(name) for name in opened.tensors}
    assert same(old, {name: np.asarray(array) for name, array in model(1).items()})


def test_short_reads(file, monkeypatch):
    """As from a disk that is far away; and more chunks than one."""
    arrays = {"a": np.arange(1000), "b": np.arange(7, dtype="int8")}
    anx.save(file, arrays)
    monkeypatch.setattr(_tensor_file, "_CHUNK", 300)
    assert same(contents(file), arrays)


# --- what reading costs --------------------------------------------------------------


@pytest.fixture
def traced():
    """The most memory that was asked for since it was last asked."""
    tracemalloc.start()

    def peak():
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        return found

    yield peak
    tracemalloc.stop()


def test_reading_takes_the_memory_of_the_file_and_no_more(file, traced):
    anx.save(file, {f"{n}": np.zeros(1_000_000, np.int8) for n in range(4)})
    traced()
    arrays = contents(file)
    assert len(arrays) == 4
    assert traced() < file.stat().st_size + 100_000


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_takes_none(file, case, traced):
    file.write_bytes(REFUSED[case][0])
    traced()
    refused(file)
    assert traced() < 100_000


def test_a_long_header_that_is_not_there(file, traced):
    file.write_bytes((99_999_999).to_bytes(8, "little") + b"{" * 1000)
    traced()
    assert refused(file).endswith("a header of 99,999,999 bytes in a file of 1,008")
    assert traced() < 100_000


def test_a_header_longer_than_anybody_writes(file, traced):
    with open(file, "wb") as sparse:
        sparse.write((100_000_001).to_bytes(8, "little") + b"{}")
        sparse.truncate(1 << 30)
    traced()
    found = "a header of 100,000,001 bytes in a file of 1,073,741,824"
    assert refused(file).endswith(found)
    assert traced() < 100_000


def test_real_memory(tmp_path):
    """Of a process that gets hardly more than it has, whatever a file claims."""
    pytest.importorskip("resource")
    for case, (data, _) in REFUSED.items():
        (tmp_path / case).write_bytes(data)
    command = [sys.executable, SCRIPTS / "cramped.py", tmp_path]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{len(REFUSED)} refused\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no list of descriptors")
def test_no_file_stays_open(file):
    anx.save(file, model())
    whole = file.read_bytes()
    before = os.listdir("/proc/self/fd")
    for data in [whole[:-1], whole[:-1] + b"x", *(data for data, _ in REFUSED.values())]:
        file.write_bytes(data)
        refused(file)
        refused(file, lambda path: anx.load(path, model()))
    file.write_bytes(whole)
    anx.load(file, model())
    with pytest.raises(anx.CheckpointError):
        anx.load(file, {"other": jnp.ones(2)})
    assert os.listdir("/proc/self/fd") == before


# --- hostile files whose checksums are right -------------------------------------------

LIKE = {
    "weight": jax.ShapeDtypeStruct((2, 3), "float32"),
    "bytes": np.ones(2, "int8"),
    "pair": np.ones(2, "complex128"),
    "key": jax.random.key(0),
    "rate": 0.5,
}
JUNK = [
    None,
    True,
    0,
    1,
    -1,
    2.5,
    math.inf,
    math.nan,
    10**400,
    "",
    "x",
    "float32",
    "weight",
]
JUNK += ["key<fry>", "key<rbg>", "rbg", "threefry2x32", "V1", "|S1", "O", "i4,i4", "\ud800"]
JUNK += [[], [1], [[]], ["a"], [None], [2, 3], [-2, -3], [1 << 70], ["2", "3"], [2.0, 3.0]]
JUNK += [{}, {"a": 1}, {"dtype": 1}, "[" * 100_000]


def places(value, path=()):
    """The paths of all there is in a value for JSON."""
    yield path
    pairs = enumerate(value) if isinstance(value, list) else ()
    for name, inside in value.items() if isinstance(value, dict) else pairs:
        yield from places(inside, (*path, name))


def put(value, path, new):
    """A copy of a value for JSON with another one somewhere in it."""
    if not path:
        return new
    first, *rest = path
    copy = value.copy()
    copy[first] = put(copy[first], rest, new)
    return copy


@pytest.fixture
def hostile(file):
    """The arrays and the manifest of a file, and what `load` does if it tells other things.

    It raises one kind of error only, and never with more than what does not fit.
    """
    real = {n: x if n != "weight" else jnp.ones((2, 3)) for n, x in LIKE.items()}
    anx.save(file, real)
    arrays = contents(file)
    with TensorFile(str(file)) as opened:
        manifest = json.loads(opened.manifest)

    def load(told, **options):
        told = told if isinstance(told, str) else json.dumps(told)
        file.write_bytes(forged(arrays, told))
        try:
            loaded = anx.load(file, LIKE, **options)
        except anx.CheckpointError as error:
            return str(error)
        assert same(
            {name: x for name, x in loaded.items() if hasattr(x, "dtype")},
            {name: x for name, x in real.items() if hasattr(x, "dtype")},
        )
        return None

    assert load(manifest) is None
    return manifest, load


@pytest.mark.filterwarnings("ignore::annotax.CheckpointWarning")
def test_any_value_of_a_manifest_may_be_any_other(hostile):
    manifest, load = hostile
    accepted = 0
    for path in places(manifest):
        for junk in JUNK:
            accepted += load(json.dumps(put(manifest, path, junk))) is None
    assert accepted  # roles, axes, tags and settings are for readers


@pytest.mark.filterwarnings("ignore::annotax.CheckpointWarning")
@pytest.mark.parametrize("name", ["weight", "bytes", "pair", "key"])
def test_any_name_is_tried_for_a_dtype(hostile, name):
    manifest, load = hostile
    right = manifest["leaves"][name]["dtype"]
    for dtype in {*dir(jnp), *_tensor_header.CODES, "key<rbg>", "V1", "|S1"} - {right}:
        assert load(put(manifest, ("leaves", name, "dtype"), dtype)) is not None


@pytest.mark.parametrize("name", ["weight", "bytes", "pair", "key"])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg", "no such"])
def test_any_tensor_may_be_said_to_be_keys(hostile, name, impl):
    manifest, load = hostile
    for dtype in ("key<fry>", "key<rbg>", "key<urbg>", "float32"):
        for shape in ([], [1], [2], [2, 3]):
            leaf = {"dtype": dtype, "shape": shape, "key_impl": impl}
            found = load(put(manifest, ("leaves", name), leaf))
            is_right = (name, impl) == ("key", "threefry2x32")
            is_right = is_right and (dtype, shape) == ("key<fry>", [])
            assert (found is None) == is_right


@pytest.mark.parametrize(
    "junk",
    [{"dict": 5}, {"x": 1}, {"class": "a"}, {"dict": [[1]]}, {"text": 1}, {"set": 2}],
)
def test_settings_that_nobody_wrote(hostile, junk):
    manifest, load = hostile
    told = json.dumps(put(manifest, ("settings", "rate"), junk))
    assert "a manifest that cannot be read" in load(told)


def test_settings_that_are_no_mapping(hostile):
    manifest, load = hostile
    told = json.dumps(put(manifest, ("settings",), [["rate", 3]]))
    assert "a manifest that cannot be read" in load(told)


def test_names_that_stand_twice_in_a_manifest(hostile):
    manifest, load = hostile
    told = json.dumps(manifest)
    for once, twice in [
        ('{"version": 1', '{"version": 1, "version": 1'),
        ('"leaves": {', '"leaves": {"bytes": {}, '),
        ('{"dtype": "int8"', '{"dtype": "float32", "dtype": "int8"'),
    ]:
        assert once in told
        assert "cannot be loaded" in load(told.replace(once, twice))


@pytest.mark.parametrize(
    "told", ["", "{", "[" * 100_000, "1" * 5_000, "\0", "NaN", "pickle"]
)
def test_a_manifest_that_is_no_json(hostile, told):
    _, load = hostile
    assert load(told).endswith(
        "cannot be loaded\n  found:    a manifest that cannot be read"
    )


def test_tensors_that_a_manifest_lacks_or_invents(hostile):
    manifest, load = hostile
    leaves = manifest["leaves"]
    found = load(put(manifest, ("leaves", "bytes"), {**leaves["bytes"], "tensor": "no"}))
    assert found.endswith("lacks tensors of its manifest\n  found:    no")
    assert load(put(manifest, ("leaves", "bytes"), {**leaves["bytes"], "tensor": "key"}))
    fewer = {name: leaf for name, leaf in leaves.items() if name != "bytes"}
    assert "not in the file: bytes" in load(put(manifest, ("leaves",), fewer))


WORDS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([1 << 40, 1 << 63, 1 << 64, 0.5, 2.0, "", "F32", "I8", "F4", "no"]),
)
JSON = st.recursive(
    WORDS,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x),
    max_leaves=4,
)
TENSORS = st.lists(
    st.tuples(
        st.sampled_from(["F32", "BF16", "I8", "BOOL", "C64"]),
        st.lists(st.integers(0, 3), max_size=2),
    ),
    max_size=3,
)


@given(
    TENSORS, st.lists(st.tuples(st.integers(0, 40), JSON), max_size=2), st.integers(-1, 1)
)
def test_what_is_accepted_is_what_the_library_accepts(tmp_path_factory, drawn, edits, more):
    file = tmp_path_factory.getbasetemp() / "drawn.safetensors"
    header, end = {"__metadata__": {"format": "np"}}, 0
    for number, (dtype, shape) in enumerate(drawn):
        itemsize = np.dtype(_tensor_header.NAMES[dtype]).itemsize
        start, end = end, end + math.prod(shape) * itemsize
        header[str(number)] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    for at, new in edits:
        paths = list(places(header))
        header = put(header, paths[at % len(paths)], new)
    data = bytes(range(200))[: end + more * (len(edits) == 0)]
    file.write_bytes(file_of(header, data))
    try:
        found = contents(file)
    except anx.CheckpointError:
        with pytest.raises(anx.CheckpointError):
            anx.load(file, LIKE)
        return
    told = dict(safetensors.deserialize(file.read_bytes()))
    assert found.keys() == told.keys()
    for name, array in found.items():
        assert list(array.shape) == told[name]["shape"]
        assert array.tobytes() == bytes(told[name]["data"])


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 220))
def test_any_bytes(tmp_path_factory, data, is_framed, length):
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + data if is_framed else data)
    with pytest.raises(anx.CheckpointError):
        anx.load(file, LIKE)
