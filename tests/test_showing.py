"""How summaries look: in a terminal, in a notebook, and in a few characters."""

import re
import sys
from html.parser import HTMLParser
from io import StringIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import treescope
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import annotax as anx
from annotax._notebook import treescope_tree
from annotax._text import (
    array_text,
    bytes_text,
    columns,
    count_text,
    counted,
    shorten,
    shorten_front,
)
from shown_models import (
    KEY,
    Fixed,
    Plain,
    layer,
    linears,
)
from strategies import crowded_models, layered_models

MODELS = layered_models() | crowded_models()


# --- how it is shown -------------------------------------------------------------------


def shown(found, **options):
    """What rich prints of it."""
    output = StringIO()
    Console(file=output, **options).print(found)
    return output.getvalue()


def test_a_summary_shows_itself_at_the_prompt():
    found = anx.summary(layer())
    assert repr(found) == str(found) == found.text() == found.text(80)


def test_show_on_no_terminal_is_plain_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    output = StringIO()
    found = anx.summary([layer(), Fixed(jnp.ones(1), "[bold]x[/bold]")])
    found.show(output)
    assert output.getvalue() == found.text(60) + "\n"


def test_show_prints_to_the_standard_output(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    anx.summary(layer()).show()
    assert capsys.readouterr().out == str(anx.summary(layer())) + "\n"


def test_show_without_rich(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    anx.summary(layer()).show()
    assert capsys.readouterr().out == anx.summary(layer()).text(70) + "\n"


def test_rich_colours_the_roles_on_a_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    model = anx.freeze([layer(), *linears(1), 3], anx.by_path("0.down"))
    output = shown(anx.summary(model), force_terminal=True, width=80)
    for code, piece in {
        32: "  param                ",
        36: "  lora (param) frozen  ",
        33: "  batch_stat (buffer)  ",
        1: " Linear",
        2: "  opaque               ",
    }.items():
        assert f"\x1b[{code}m{piece}\x1b[0m" in output
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert plain == anx.summary(model).text() + "\n"


def test_rich_leaves_colours_out_where_nobody_wants_them(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    output = shown(anx.summary(layer()), force_terminal=True, width=80)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", output)


@given(MODELS, st.integers(40, 120))
def test_rich_prints_the_text(model, width):
    found = anx.summary(model.tree)
    assert shown(found, width=width, legacy_windows=False) == found.text(width) + "\n"


# --- in notebooks ----------------------------------------------------------------------


class Page(HTMLParser):
    """Reads HTML and insists that each tag is closed where it must be."""

    VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})

    def __init__(self, html):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.styles: list[tuple[str, str]] = []
        self._style = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self._style = dict(attributes).get("style") or ""
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)
            self.styles.append((self._style, data))

    @property
    def text(self):
        return "".join(self.texts)


def treescope_page(found):
    """The page that treescope makes, without packing it."""
    return Page(treescope.render_to_html(found, compressed=False))


@pytest.fixture
def no_treescope(monkeypatch):
    monkeypatch.setitem(sys.modules, "treescope", None)


HOSTILE = {
    "<b>&": "<i>&amp;</i>",
    "array": jnp.ones(3),
    "module": Fixed(jnp.ones(2), "</pre><script>alert(1)</script>"),
}


@pytest.mark.usefixtures("no_treescope")
def test_html_without_treescope_is_the_table():
    model = anx.freeze([layer(), Plain(jnp.ones(3), HOSTILE)], anx.by_path("0.down"))
    found = anx.summary(model)
    page = Page(found._repr_html_())
    assert page.text == found.text(100)
    assert page.tags == {"pre", "span", "b"}
    styles = {data.strip(): style for style, data in page.styles}
    assert styles["param"] == "color:#2a7d3c"
    assert styles["lora (param) frozen"] == "color:#1f78b4"
    assert styles["batch_stat (buffer)"] == "color:#a6761d"


@given(MODELS)
def test_html_is_the_table_for_any_model(model):
    found = anx.summary(model.tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "treescope", None)
        assert Page(found._repr_html_()).text == found.text(100)


@pytest.mark.usefixtures("no_treescope")
def test_html_ends_somewhere(monkeypatch):
    monkeypatch.setattr("annotax._notebook._MOST_LINES", 3)
    found = anx.summary(layer())
    assert Page(found._repr_html_()).text.split("\n") == [
        *found.text(100).split("\n")[:3],
        "… 10 more lines: summary(..., depth=1) shows fewer",
        "",
        *found.text(100).split("\n")[-6:],
    ]


def test_html_of_treescope(monkeypatch):
    deleted = jnp.ones(4)
    deleted.delete()
    arrays = {
        "abstract": jax.ShapeDtypeStruct((5,), "float32"),
        "complex": jnp.ones(2, "complex64"),
        "deleted": deleted,
        "empty": jnp.ones((0, 3)),
        "float8": jnp.ones(2, jnp.float8_e4m3fn),
        "key": KEY,
        "numpy": np.ones(2),
        "scalar": np.float32(1),
    }
    model = anx.freeze([layer(), arrays, HOSTILE], anx.by_path("0.down"))
    page = treescope_page(anx.summary(model))
    for piece in (
        "weight  param  f32[3,4] out_features in_features",
        "down  lora (param) frozen  f32[2,4] rank in_features",
        "mean  batch_stat (buffer)  f32[4] in_features",
        "abstract  param ?  f32[5]",
        "deleted  param ?  f32[4]",
        "key  buffer ?  key<fry>[]",
        "['<b>&']  opaque  '<i>&amp;</i>'",
        "module Fixed  2 params, 8 B  value='</pre><script>alert(1)</script>'",
        "trainable     ",
        "? nobody says a role: Equinox's convention",
        "float32(3, 4)",
    ):
        assert piece in page.text
    assert not {"b", "i", "pre"} & page.tags
    styles = {data.strip(): style for style, data in page.styles}
    assert "color:#2a7d3c" in styles["param"]
    assert "color:#1f78b4" in styles["lora (param) frozen"]
    assert "color:#a6761d" in styles["batch_stat (buffer)"]


def test_notebooks_are_given_the_html_of_treescope():
    html = anx.summary(layer())._repr_html_()
    assert "treescope" in html
    assert Page(html).open == []


class Counting:
    """Stands for treescope's renderer of what is inside, and counts what it is given."""

    def __init__(self):
        self.given = []

    def __call__(self, node, path=None):
        self.given.append((path, node))
        return treescope.rendering_parts.text("ARRAY")


def test_treescope_is_not_given_more_arrays_than_a_page_can_hold():
    render = Counting()
    treescope_tree(anx.summary([jnp.ones(i % 2) for i in range(1_010)]), render)
    assert [path for path, _ in render.given] == list(map(str, range(1_000)))


def test_treescope_is_given_no_array_whose_values_are_not_here():
    deleted = jnp.ones(3)
    deleted.delete()
    stand_in = jax.ShapeDtypeStruct((3,), "float32")
    render = Counting()

    @jax.jit
    def look(traced):
        model = {"a": deleted, "b": stand_in, "c": traced, "d": np.ones(3), "e": 1}
        treescope_tree(anx.summary(model), render)

    look(jnp.ones(3))
    assert [path for path, _ in render.given] == ["d"]


def test_what_is_left_out_of_a_page_is_said(monkeypatch):
    monkeypatch.setattr("annotax._notebook._MOST_ARRAYS", 2)
    texts = treescope_page(anx.summary({"a": jnp.ones(1), "b": jnp.ones(1)})).text
    assert "can be unfolded" not in texts
    texts = treescope_page(anx.summary([jnp.ones(i) for i in range(1, 5)])).text
    assert texts.count("<jax.Array") == 2
    assert "f32[4]" in texts
    assert "only the first 2 arrays can be unfolded" in texts
    monkeypatch.setattr("annotax._notebook._MOST_LINES", 4)
    texts = treescope_page(anx.summary([[1, 2, 3, 4], [5, 6]])).text
    assert "… 2 more" in texts
    assert "… 1 more" in texts
    assert "trainable" in texts


def test_treescope_shows_as_deep_as_asked():
    found = anx.summary([layer(), [linears(1)]], depth=1)
    assert "weight" not in treescope_page(found).text
    assert "weight" in treescope_page(anx.summary([layer(), [linears(1)]])).text


def test_short_pages_are_unfolded_further():
    short, long = (treescope.render_to_text(anx.summary(linears(n))) for n in (2, 20))
    assert ("weight" in short, "weight" in long) == (True, False)
    assert "19 Linear  6 params, 24 B" in long


def test_treescope_shows_a_summary_that_it_meets():
    text = treescope.render_to_text({"found": anx.summary(layer())})
    assert "down  lora (param)  f32[2,4] rank in_features" in text


# --- figures and texts -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (1234, "1,234"),
        (99_999, "99,999"),
        (100_000, "100 K"),
        (999_499, "999 K"),
        (999_500, "1.00 M"),
        (12_345_678, "12.3 M"),
        (7_000_000_000, "7.00 B"),
        (1_500_000_000_000, "1.50 T"),
    ],
)
def test_counts(count, shown):
    assert count_text(count) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (1024 * 1024 - 1, "1.00 MiB"),
        (10 * 1024**2, "10.0 MiB"),
        (100 * 1024**3, "100 GiB"),
        (2 * 1024**4, "2.00 TiB"),
    ],
)
def test_sizes(size, shown):
    assert bytes_text(size) == shown


UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@given(st.integers(0, 10**14))
def test_figures_are_short_and_right_to_three_digits(number):
    count, size = count_text(number), bytes_text(number)
    assert len(count) <= 7
    assert len(size) <= 8
    digits, _, unit = count.replace(",", "").partition(" ")
    assert abs(float(digits) * UNITS[unit] - number) <= 0.006 * number
    digits, unit = size.split()
    assert abs(float(digits) * BYTES[unit] - number) <= 0.006 * number


def test_nouns():
    assert [counted(count, "leaf") for count in (1, 2)] == ["1 leaf", "2 leaves"]
    assert [counted(count, "class") for count in (1, 0)] == ["1 class", "0 classes"]
    assert counted(12_345, "array") == "12,345 arrays"


@given(st.text(max_size=30), st.integers(0, 20))
def test_texts_are_cut_to_their_width(text, width):
    for cut in (shorten(text, width), shorten_front(text, width)):
        assert columns(cut) <= width
        assert cut.isprintable()
    if text.isprintable() and columns(text) <= width:
        assert shorten(text, width) == shorten_front(text, width) == text
    elif text.isprintable() and text.isascii() and width:
        assert shorten(text, width) == f"{text[: width - 1]}…"
        assert shorten_front(text, width) == f"…{text[len(text) - width + 1 :]}"


def test_columns_of_a_terminal():
    texts = ("abc", "é", "e\u0301", "日本", "├ …×")
    assert [columns(text) for text in texts] == [3, 1, 1, 4, 4]


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        ("float32", "f32[2,3]"),
        ("bfloat16", "bf16[2,3]"),
        ("uint8", "u8[2,3]"),
        ("int4", "i4[2,3]"),
        ("complex64", "c64[2,3]"),
        ("bool", "bool[2,3]"),
        ("float8_e4m3fn", "f8_e4m3fn[2,3]"),
    ],
)
def test_arrays_look_as_in_equinox(dtype, shown):
    assert array_text((2, 3), jnp.dtype(dtype)) == shown
