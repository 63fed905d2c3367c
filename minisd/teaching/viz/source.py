"""Source of a function in lines that fit on a page: JupyterLab would break them within words."""

import io
import re
import textwrap
import tokenize
from collections import defaultdict
from collections.abc import Iterator

WIDE = 66  # characters of code that JupyterLab shows in one line, in a window of 1100 pixels
RANKS = {"for": 3, ",": 2, "if": 1, "else": 1, "and": 1, "or": 1, "(": 0}
RANKS |= dict.fromkeys(("+", "-", "*", "/", "@", "==", "<="), 0)  # the highest is broken first
OPEN, CLOSE = set("([{"), set(")]}")


def narrow(source: str, width: int = WIDE) -> str:
    """The same program in lines of `width` characters, as far as that can be had.

    Docstrings are broken between words, code within brackets, and a comment that ends a long line
    goes above it.
    """
    return _code(_docstrings(source, width), width)


def _docstrings(source: str, width: int) -> str:
    """A line that is too long takes what follows in its paragraph with it.

    "name: ..." and a line that is indented differently begin a paragraph of their own.
    """
    parts = re.split(r'( *"""(?:.|\n)*?""")', source)
    for i in range(1, len(parts), 2):
        lines, out = parts[i].split("\n"), []
        while lines:
            line = lines.pop(0)
            if len(line) > width:
                indent = " " * (len(line) - len(line.lstrip()))
                while lines and re.match(rf"{indent}\S(?!\w*: )", lines[0]):
                    line += " " + lines.pop(0).strip()
                line = _wrapped(line.strip(), width, indent)
            out.append(line)
        parts[i] = "\n".join(out)
    return "".join(parts)


def _wrapped(text: str, width: int, indent: str) -> str:
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _code(source: str, width: int) -> str:
    """Each line that is too long is broken where the fewest brackets are open, as late as it fits.

    It is broken after "," or "(", or before another of RANKS.
    """
    while True:
        lines = source.split("\n")
        for row, shorter in _broken(source, width):
            lines[row] = shorter
        if lines == source.split("\n"):
            return source
        source = "\n".join(lines)


def _broken(source: str, width: int) -> Iterator[tuple[int, str]]:
    """The number of each line that can be made shorter, and the lines that it becomes."""
    places, comments, within = defaultdict(list), {}, {}
    depth, names = 0, None  # names: the depth at which those between "for" and "in" stand
    for token in _tokens(source):
        row, start, end = token.start[0] - 1, token.start[1], token.end[1]
        text = token.string
        within.setdefault(row, depth > 0)
        depth += (text in OPEN) - (text in CLOSE)
        if token.type == tokenize.COMMENT:
            comments[row] = start
        elif depth and text in RANKS and depth != names:
            places[row].append((-depth, RANKS[text], end if text in ",(" else start))
        names = depth if text == "for" else None if text == "in" else names
    for row, line in enumerate(source.split("\n")):
        if len(line) <= width:
            continue
        indent = re.match(" *", line)[0]
        if row in comments:
            code, comment = line[: comments[row]].rstrip(), line[comments[row] + 1 :].strip()
            above = _wrapped(comment, width, indent + "# ")
            yield row, f"{above}\n{code}" if code else above
            continue
        soonest = len(indent) + (width - len(indent)) // 4  # a stump of a line helps nobody
        fits = [place for place in places[row] if soonest < place[-1] <= width]
        fits = [place for place in fits if line[place[-1] :][:1] not in (")", "]", "}", "")]
        if fits:
            at = max(fits)[-1]
            deeper = "" if within[row] else "    " * (1 + line.endswith(":"))
            yield row, f"{line[:at].rstrip()}\n{indent}{deeper}{line[at:].strip()}"


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    """Those of the source, without what is within f-strings, which Python has only since 3.12."""
    inside = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
        if not inside:
            yield token
