"""What `viz` puts on a page: a picture, its words, a flip-book that is told apart from others."""

import ast
import base64
import inspect
import io
import json
import re
import textwrap
from dataclasses import replace

import pytest
import torch
from PIL import Image

from minisd import guidance, samplers, schedules
from minisd.models import blocks, configs, unet
from minisd.teaching import viz
from minisd.teaching.viz.source import WIDE, narrow


@pytest.fixture
def published(monkeypatch):
    """What would be on the page: (data, metadata) of each picture, and the HTML."""
    import IPython.display

    pictures, html = [], []
    monkeypatch.setattr(
        IPython.display,
        "publish_display_data",
        lambda data, metadata: pictures.append((data, metadata)),
    )
    monkeypatch.setattr(IPython.display, "display", lambda shown: html.append(shown.data))
    return pictures, html


def sheet(pictures):
    return Image.open(io.BytesIO(base64.b64decode(pictures[-1][0]["image/png"])))


def test_a_figure_has_its_words_three_times(published):
    before = viz.plt.get_fignums()
    viz.plt.figure()
    viz.plt.plot([1, 2])
    viz.display("a line <from 1 to 2>")
    [(data, metadata)], [html] = published
    assert data["text/plain"] == metadata["image/png"]["alt"] == "a line <from 1 to 2>"
    assert "a line &lt;from 1 to 2&gt;" in html and viz.plt.get_fignums() == before


def frames(published, n, columns=4):
    def draw(figure, shade):
        figure.set_facecolor((shade, shade, shade))

    viz.flip(
        draw,
        [k / n for k in range(n)],
        [f"k = {k}" for k in range(n)],
        alt="grey that grows lighter",
        size=(1, 0.5),
        columns=columns,
    )
    pictures, html = published
    items = json.loads(re.search(r"const it = ({.*?});\n", html[-1])[1])
    return sheet(pictures), items, html[-1]


@pytest.mark.parametrize(("n", "columns"), [(6, 4), (4, 4), (3, 4), (5, 1)])
def test_a_flip_book_is_one_sheet_of_its_frames(published, n, columns):
    picture, items, html = frames(published, n, columns)
    across = min(columns, n)
    assert items["frame"] == [100, 50] and list(picture.size) == items["sheet"]
    assert picture.size == (100 * across, 50 * -(-n // across))
    assert items["labels"] == [f"k = {k}" for k in range(n)]
    for k in range(n):
        grey = picture.convert("L").getpixel((k % across * 100 + 50, k // across * 50 + 25))
        assert abs(grey - 255 * k / n) <= 1
    assert f'class="{items["name"]}"' in html and "base64" not in html


def test_flip_books_are_told_apart_and_say_the_same_twice(published):
    (_, one, html), (_, again, same) = frames(published, 6), frames(published, 6)
    _, other, _ = frames(published, 5)
    assert one["name"] == again["name"] != other["name"] and html == same


def test_a_label_for_each_frame():
    with pytest.raises(ValueError, match="a label for each frame: got 2 frames, 1 labels"):
        viz.flip(lambda figure, value: None, [1, 2], ["one"], alt="two")


def test_words_cannot_close_the_script(published):
    viz.flip(lambda figure, value: None, [1], ["</script><b>"], alt="a </script> in the words")
    html = published[1][-1]
    assert html.count("</script>") == html.count("<script>") == 2 and html.endswith("</script>")


def test_titles_one_for_each_column_or_each_picture(published, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set_title", lambda self, text, **_: titles.append(text)
    )
    viz.strip(torch.zeros(4, 3, 8, 8), ["a", "b"], rows=2, alt="four grey pictures")
    viz.strip(torch.zeros(4, 3, 8, 8), ["a", "b", "c", "d"], rows=2, alt="four grey pictures")
    assert titles == ["a", "b", "a", "b", "c", "d"]


def test_pictures_are_at_least_128_pixels_wide_where_six_fill_a_row(published):
    viz.strip(torch.zeros(6, 3, 64, 64), alt="six grey pictures")
    assert sheet(published[0]).width >= 6 * 128


def test_drawings_of_the_families_read_their_numbers_off_the_configs(published, monkeypatch):
    words, text = [], viz.plt.Axes.text

    def note(self, x, y, said, **style):
        words.append(said)
        return text(self, x, y, said, **style)

    monkeypatch.setattr("matplotlib.axes.Axes.text", note)
    vae = replace(configs.KL_F8, channel_mult=(1, 2, 4), scale_factor=0.5)  # a quarter of the side
    clip = replace(configs.CLIP_L, length=20, width=48, layers=5, layer=-2, norm=False)
    unet = replace(configs.SD1, model_channels=64, out_channels=6, context_dim=96, heads=3)
    viz.prompt_flow(2, clip, unet, vae, 256, alt="two pictures")
    for shape in ["(4, 20)", "(4, 20, 48)", "(4, 64)", "(4, 256)", "(4, 4, 64, 64)"]:
        assert shape in words
    assert "(4, 6, 64, 64)" in words and "(2, 3, 256, 256)" in words
    assert any(r"{\epsilon}_u" in said for said in words)

    words.clear()
    viz.prompt_flow(2, clip, replace(unet, prediction="v"), vae, 256, alt="two pictures")
    assert any("{v}_u" in said for said in words) and not any("epsilon" in said for said in words)

    changes = {"attention_factors": (1, 4), "transformer_depth": (3, 1, 1, 9), "vector_dim": 77}
    families = {"before": ((clip,), unet, vae, 256)}
    after = replace(unet, prediction="v", **changes)
    families["after"] = ((clip, clip), after, replace(vae, scale_factor=2.0), 128)
    words.clear()
    viz.families_side_by_side(families, alt="one family, before and after a change")
    page = "\n".join(words)
    before, after = page[: page.index("after")], page[page.index("after") :]
    common = "text encoder, 5 layers, width 48\npenultimate layer, no norm"
    assert before.count(common) == 1 and after.count(common) == 2
    for said in ["context (20, 96)", "3 heads", "middle: 256 channels, "]:
        assert said in before and said in after
    old = ["64 × 64: 64 channels, 1 block\n", "32 × 32: 128 channels, 1 block\n"]
    old += ["middle: 256 channels, 1 block\n", "no extra vector", r"$\epsilon$, (6, 64, 64)"]
    new = ["32 × 32: 64 channels, 3 blocks", "16 × 16: 128 channels, no blocks"]
    new += ["middle: 256 channels, 9 blocks", "vector of 77 numbers", "$v$, (6, 32, 32)"]
    old += ["scale factor 0.5", "256 × 256 pixels"]
    new += ["scale factor 2.0", "128 × 128 pixels"]
    for one, other in zip(old, new, strict=True):
        assert one in before and one not in after and other in after and other not in before


SOURCE = '''def f(x):
    """The first line of it, which is quite a bit longer than what fits into a narrow column.

        a formula that is too long to fit into the narrow column as well, so that it is broken

    x: the first argument, of which there is a lot to say, and it goes on
    and on.
    y: another -> result.
    """
    return "a string of code that is too long for the column, and stays as it is, in one line"
'''
CODE = """def first(network: Tensor, x: Tensor, scale: float = 7.5, steps: int = 50) -> Tensor:
    names = [name for name, part in network.parts.items() if part.weight is not None]  # a comment
    for name, part in zip(names, network.all_of_its_parts(names, scale), strict=True):
        x = part(x, f"a {name}, {steps}") + (scale * x if steps else network(x, scale))
    return x
"""
NARROW = """def first(network: Tensor, x: Tensor,
        scale: float = 7.5, steps: int = 50) -> Tensor:
    # a comment
    names = [name
        for name, part in network.parts.items()
        if part.weight is not None]
    for name, part in zip(names,
            network.all_of_its_parts(names, scale),
            strict=True):
        x = part(x, f"a {name}, {steps}") + (scale * x
            if steps else network(x, scale))
    return x
"""


def test_a_map_lies_over_a_picture_in_its_own_squares():
    picture = -torch.ones(3, 64, 64)
    picture[0, 16:48, 16:48] = 1
    _, axis = viz.plt.subplots()
    viz.over(axis, picture, torch.eye(8))
    grey, colours = axis.images
    assert torch.equal(torch.as_tensor(colours.get_array()), torch.eye(8))
    assert colours.get_extent() == grey.get_extent()
    [outline] = axis.collections
    x, y = outline.get_paths()[0].vertices.T
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((15.5, 47.5, 15.5, 47.5), abs=0.5)
    _, plain = viz.plt.subplots()
    viz.over(plain, torch.zeros(3, 64, 64), torch.eye(8))  # nothing to go round
    assert not plain.collections
    viz.plt.close("all")


def test_code_is_broken_within_brackets_and_stays_the_program_that_it_was():
    out = narrow(CODE, 55)
    assert out == NARROW and narrow(out, 55) == out and narrow(CODE, 120) == CODE
    assert ast.dump(ast.parse(out)) == ast.dump(ast.parse(CODE))


def test_what_notebooks_show_fits_on_the_page():
    """Every function of the sampling and of the networks is the same program in short lines."""
    before, after = [], []
    for module in (samplers, schedules, guidance, blocks, unet):
        for function in vars(module).values():
            if getattr(function, "__module__", "") == module.__name__ and callable(function):
                source = textwrap.dedent(inspect.getsource(function))
                out = narrow(source)
                assert _program(out) == _program(source)
                before += [line for line in source.split("\n") if len(line) > WIDE]
                after += [line for line in out.split("\n") if len(line) > WIDE]
    left = [line for line in after if '"' not in line]  # a string is not broken
    assert len(before) > 300 and len(left) <= 5, left


def _program(source):
    """It without the docstrings, in which words may go to another line."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(str(node.value.value).split())
    return ast.dump(tree)


def test_docstrings_are_broken_between_words():
    out = narrow(SOURCE, 50)
    assert out.split() == SOURCE.split()
    *doc, code = out.strip().split("\n")
    assert all(len(line) <= 50 for line in doc) and code == SOURCE.strip().split("\n")[-1]
    assert "    y: another -> result." in doc and narrow(SOURCE, 200) == SOURCE
