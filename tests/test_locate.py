"""Where classes and fields stand in their source files."""

import importlib.util
import linecache
import os
import sys
import textwrap

import equinox as eqx
import jax
import pytest

import annotax as anx
from annotax import _locate
from annotax._locate import Location, locate_class, locate_field

SOURCE = """
    import equinox as eqx
    import functools
    import annotax as anx

    def mark(cls):
        return cls

    @mark
    class Plain(eqx.Module):
        x: int
        y: int
        x: float  # annotated again: this one counts

        class Inner(eqx.Module):
            z: int

        if True:
            under_if: int
        else:
            not_run: int
        z = 3

    class Derived(Plain):
        own: anx.Param[int]

    def make():
        class Local(eqx.Module):
            a: int
        return Local

    Local = make()

    class Twice(eqx.Module):
        a: int
        def method(self):
            pass

    First = Twice

    class Twice(eqx.Module):
        a: int
        b: int
        @property
        def method(self):
            pass

    Second = Twice

    class Model(anx.Module):
        w: anx.Param[object]
        def method(self):
            pass

    FirstModel = Model

    class Model(anx.Module):
        w: anx.Param[object]

    if True:
        class Either(eqx.Module):
            a: int
    else:
        class Either(eqx.Module):
            b: int

    try:
        class InTry(eqx.Module):
            a: int
    finally:
        pass

    class Decorated(eqx.Module):
        a: int
        @eqx.filter_jit
        def method(self):
            pass

    Dynamic = type("Dynamic", (), {"__module__": __name__})
    lines = None
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("locate") / "located_by_tests.py"
    path.write_text(textwrap.dedent(SOURCE))
    spec = importlib.util.spec_from_file_location("located_by_tests", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.lines = path.read_text().splitlines()
    yield module
    del sys.modules[spec.name]


def line(module, text, nth=0):
    """The number of the nth line that reads as `text`."""
    return [n for n, row in enumerate(module.lines, 1) if row.strip() == text][nth]


def class_line(cls):
    found = locate_class(cls)
    return found and found.line


def field_line(cls, name):
    found = locate_field(cls, name)
    return found and found.line


def test_a_class_starts_with_its_decorators(module):
    assert locate_class(module.Plain) == Location(module.__file__, line(module, "@mark"))


def test_a_field_is_where_its_own_class_annotates_it(module):
    again = line(module, "x: float  # annotated again: this one counts")
    assert locate_field(module.Plain, "x") == Location(module.__file__, again)
    assert field_line(module.Plain, "y") == line(module, "y: int")
    assert field_line(module.Plain, "under_if") == line(module, "under_if: int")
    assert field_line(module.Derived, "own") == line(module, "own: anx.Param[int]")
    assert field_line(module.Derived, "x") is None
    assert field_line(module.Plain, "z") is None
    assert field_line(module.Plain, "no_such") is None


def test_nested_and_local_classes(module):
    assert field_line(module.Plain.Inner, "z") == line(module, "z: int")
    assert class_line(module.Local) == line(module, "class Local(eqx.Module):")


def test_of_two_with_one_name_the_right_one(module):
    assert class_line(module.First) == line(module, "class Twice(eqx.Module):")
    assert class_line(module.Second) == line(module, "class Twice(eqx.Module):", 1)
    assert field_line(module.First, "b") is None
    assert class_line(module.Either) == line(module, "class Either(eqx.Module):")
    assert class_line(module.InTry) == line(module, "class InTry(eqx.Module):")


def test_methods_behind_decorators_tell_the_file(module, monkeypatch):
    monkeypatch.setattr(module, "__file__", None)
    assert class_line(module.Decorated) == line(module, "class Decorated(eqx.Module):")
    assert class_line(module.Second) == line(module, "class Twice(eqx.Module):", 1)
    assert class_line(module.Plain) is None


def test_the_line_that_python_remembers_decides(module, monkeypatch):
    second = line(module, "class Twice(eqx.Module):", 1)
    monkeypatch.setattr(module.First, "__firstlineno__", second, raising=False)
    assert class_line(module.First) == second


def test_a_variant_stands_where_its_original_does(module):
    model = module.FirstModel(jax.numpy.ones(1))
    frozen = type(anx.freeze(model, anx.everything))
    assert frozen is not module.FirstModel
    assert class_line(frozen) == line(module, "class Model(anx.Module):")
    assert field_line(frozen, "w") == line(module, "w: anx.Param[object]")


def test_what_has_no_source_has_no_place(module):
    made = type("Made", (eqx.Module,), {"__annotations__": {"x": int}})
    namespace = {"eqx": eqx, "__name__": "no_such_module"}
    exec("class Typed(eqx.Module):\n    x: int", namespace)
    for cls in (int, made, module.Dynamic, namespace["Typed"]):
        assert locate_class(cls) is None
        assert locate_field(cls, "x") is None


def test_a_file_that_is_no_python_has_no_places(tmp_path, module, monkeypatch):
    path = tmp_path / "broken.py"
    path.write_text("class Plain(:")
    monkeypatch.setattr(module, "__file__", str(path))
    assert class_line(module.Plain) is None


def test_nothing_is_raised_for_strange_members():
    class Strange:
        def __getattr__(self, name):
            raise RuntimeError(name)

    class Holder:
        x: int
        strange = Strange()

    assert locate_field(Holder, "x") is None


def test_notebook_cells_are_found_by_their_methods():
    name, source = "<cell 7>", "class Cell(eqx.Module):\n    x: int\n    def f(self): ...\n"
    rows = source.splitlines(keepends=True)
    linecache.cache[name] = (len(source), None, rows, name)
    namespace = {"eqx": eqx, "__name__": "__no_notebook__"}
    try:
        exec(compile(source, name, "exec"), namespace)
        assert str(locate_field(namespace["Cell"], "x")) == "<cell 7>:2"
    finally:
        del linecache.cache[name]


def test_a_file_is_read_again_when_it_has_changed(tmp_path, module, monkeypatch):
    path = tmp_path / "changing.py"
    monkeypatch.setattr(module, "__file__", str(path))
    path.write_text("class Plain: ...")
    assert class_line(module.Plain) == 1
    path.write_text("\n\nclass Plain: ...")
    assert class_line(module.Plain) == 3


def test_the_text_of_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    below = Location(str(tmp_path / "models" / "layers.py"), 3)
    assert str(below) == f"{os.path.join('models', 'layers.py')}:3"
    beside = Location(str(tmp_path.parent / "layers.py"), 3)
    assert str(beside) == f"{tmp_path.parent / 'layers.py'}:3"


def test_a_cell_of_a_notebook_is_called_so():
    assert str(Location("/tmp/ipykernel_12/3456.py", 3)) == "cell:3"
    assert str(Location(r"C:\temp\ipykernel_12\3456.py", 3)) == "cell:3"
    assert str(Location("/models/ipykernel_12.py", 3)) == "/models/ipykernel_12.py:3"


def test_a_place_is_told_in_full_from_a_directory_that_is_gone(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert str(Location("/models/page.py", 3)) == "/models/page.py:3"


def test_files_are_forgotten_when_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(_locate, "_LIMIT", 2)
    monkeypatch.setattr(_locate, "_parsed", {})
    for number in range(4):
        path = tmp_path / f"page{number}.py"
        path.write_text("class Model:\n    pass\n")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        page = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, page)
        spec.loader.exec_module(page)
        assert locate_class(page.Model).line == 1
    assert [os.path.basename(file) for file in _locate._parsed] == ["page2.py", "page3.py"]


def test_a_place_in_a_library_is_told_from_the_library_on(monkeypatch, tmp_path):
    library = tmp_path / "lib" / "site-packages" / "equinox" / "nn" / "_linear.py"
    assert str(Location(str(library), 16)) == "equinox/nn/_linear.py:16"
    monkeypatch.chdir(tmp_path)
    assert str(Location(str(tmp_path / "models" / "net.py"), 3)) == "models/net.py:3"
