"""How the notebooks read: headings, symbols, words, and what stands open between two thoughts."""

import base64
import io
import json
import pathlib
import re

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
COURSE = sorted(p for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("[0-9]*.ipynb"))
PLOTS = re.compile(r"\bplt\.|\bax(?:is|es)?\b|\bfig(?:ure)?\b|\.(?:plot|imshow|scatter|hist|bar)\(")
BANNED = {  # a pattern, and what the course writes instead (docs/SYMBOLS.md)
    r"\\varepsilon": r"\epsilon",
    r"\\varphi": r"\psi for the angle, \phi for PNDM's transfer",
    r"(?:epsilon_u|epsilon_\\varnothing) *\+ *s": "the guidance scale is g",
    r"(?i)in five lines": "Summary",
    r"(?i)\bask(?:s|ed|ing)? (?:the|a|this|its) (?:network|model|denoiser)": "call or evaluate it",
    r"(?i)\bmend(?:s|ed|ing)?\b": "fix, correct",
    r"(?i)\bloud(?:er|ness)?\b": "standard deviation",
    r"(?i)\bas told\b": "correct, as the prompt says",
    r"(?i)\b(?:white|black|grey|coloured|plain) ground\b": "background",
}
each = pytest.mark.parametrize("path", COURSE, ids=lambda p: p.stem)
every = pytest.mark.parametrize(
    "path", COURSE + SOLUTIONS, ids=lambda p: f"{p.parent.name}/{p.stem}"
)


def cells(path, kind=None):
    found = json.loads(path.read_text())["cells"]
    return [c for c in found if kind in (None, c["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def prose(path):
    """The Markdown of a notebook, a text a cell, without code."""
    for cell in cells(path, "markdown"):
        yield re.sub(r"```.*?```|`[^`\n]*`", "", source(cell), flags=re.S)


def headings(path, level):
    texts = re.sub(r"```.*?```", "", "\n".join(map(source, cells(path, "markdown"))), flags=re.S)
    return re.findall(rf"^#{{{level}}} (.*)$", texts, re.M)


def folded(cell):
    return cell["metadata"].get("jupyter", {}).get("source_hidden", False)


@each
def test_sections_are_numbered_and_the_last_two_are_the_same_everywhere(path):
    sections = headings(path, 2)
    end = [h for h in sections if not re.match(r"\d+\. |Appendix: ", h)]
    assert end in (["Summary"], ["Summary", "Bonus questions"]), end
    numbers = [int(h.split(".")[0]) for h in sections if h[0].isdigit()]
    assert numbers == list(range(1, len(numbers) + 1)), numbers


@each
def test_exercises_are_headings(path):
    told = headings(path, 3)
    code = "\n".join(map(source, cells(path, "code")))
    for name in re.findall(r'^check\("(\w+)", my_\w+\)', code, re.M):
        forms = [f"Exercise `{name}` ({level})" for level in ("easy", "middle", "hard")]
        assert sum(told.count(form) for form in forms) == 1, name


@each
def test_it_leads_to_the_table_of_symbols(path):
    assert "](../docs/SYMBOLS.md)" in source(cells(path, "markdown")[0])


@every
def test_words_and_symbols_mean_one_thing(path):
    for text in prose(path):
        for pattern, instead in BANNED.items():
            found = re.search(pattern, text)
            assert not found, f"{found[0]!r}: write {instead}\n{text}"


@each
def test_figures_are_followed_by_what_to_look_at(path):
    for text in prose(path):
        for found in re.findall(r"(?i)^.*what to look at.*$", text, re.M):
            assert found.startswith("*What to look at:*"), found
        for found in re.findall(r"(?i)^.*guess first.*$", text, re.M):
            assert found.startswith("**Guess first:**"), found


@every
def test_every_picture_has_its_words(path):
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                alt = output["metadata"].get("image/png", {}).get("alt", "")
                assert len(alt) >= 40 and " " in alt, f"{source(cell)}\nhas no words: {alt!r}"


@every
def test_plotting_is_folded_away_or_in_viz(path):
    """At most three lines of an open cell draw; what is folded away draws, and prints nothing."""
    for cell in cells(path, "code"):
        lines = [line for line in source(cell).splitlines() if PLOTS.search(line)]
        if folded(cell):
            assert lines or "viz." in source(cell), source(cell)
            assert not re.search(
                r"^(?:check|compare|show)\(|^def my_|\bprint\(", source(cell), re.M
            )
        elif "rcParams" not in source(cell):
            assert len(lines) <= 3, source(cell)


@every
def test_open_code_fits_a_laptops_screen(path):
    for cell in cells(path, "code"):
        for line in source(cell).splitlines():
            assert folded(cell) or len(line) <= 84, line
        for output in cell["outputs"]:
            for line in "".join(output.get("text", "")).splitlines():  # or it is broken anywhere
                assert len(line) <= 84, line


@every
def test_a_table_is_one_block_of_rows(path):
    """A line between two rows ends a table, and what follows it is shown as text with bars."""
    for cell in cells(path, "markdown"):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", source(cell), flags=re.S)
        for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
            head, line, *rows = (row.strip() for row in block.splitlines())
            assert re.fullmatch(r"\|(?: *:?-+:? *\|)+", line) and rows, block
            for row in (head, *rows):
                bars = len(re.findall(r"(?<!\\)\|", re.sub(r"\$[^$]*\$", "", row)))
                assert row[-1] == "|" and bars == line.count("|"), row


@every
def test_flip_books_are_light(path):
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            png = base64.b64decode(output.get("data", {}).get("image/png", ""))
            assert len(png) <= 150_000, source(cell)
            if png:  # a flip-book's sheet is wider than the page, which is 1000
                assert Image.open(io.BytesIO(png)).width <= 4000
