"""What a teacher reads: CSV, a page that needs nothing but a browser, lines for a terminal."""

import collections
import csv
import html
import io
import re
from collections.abc import Iterable

from ..exercises import EXERCISES, NOTEBOOKS
from .jobs import POINTS, STATUSES, Row
from .submission import Unread

SIGNS = dict(zip(STATUSES, "✓✗·!∞?=", strict=True))
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em;
  color: #222; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2em 0 .4em }
table { border-collapse: collapse; margin: .5em 0 }
th, td { border: 1px solid #ddd; padding: .2em .5em; text-align: left; vertical-align: top }
th { background: #f4f4f4; font-weight: 600 }
td.sign { text-align: center; min-width: 1.6em; font-weight: 600 }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
tr:has(.turned) th { vertical-align: bottom }
th.turned { height: 12em; padding: .4em .3em; white-space: nowrap }
th.turned div { writing-mode: vertical-rl; transform: rotate(180deg); margin: auto;
  font-family: ui-monospace, monospace; font-weight: 400; font-size: .9em }
.correct { background: #d5efd8 } .wrong { background: #f8d3cf }
.not-attempted { background: #f1f1f1 }
.error { background: #fbe3c0 } .timed-out { background: #e6d9f3 }
.missing { background: #e4e4e4 } .borrowed { background: #fbf3b4 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2em 0; font-size: .85em }
.hint { color: #8a1c10 } .wide { overflow-x: auto } small { color: #666 }
details { margin: .25em 0 } summary { cursor: pointer }
"""


MOST = 2000  # characters of a text
YES = ("no", "yes")
FORMULA = re.compile(r"(^|[;\n])([ '\"]*)(?=[=+\-@＝＋－＠])")


def clean(text: str) -> str:
    """A stranger's text for a terminal, a page and a spreadsheet: printable characters and line
    breaks, so no escape codes and no marks of direction; not longer than MOST.
    """
    text = text if len(text) <= MOST else text[:MOST] + " ..."
    kept = (c if c.isprintable() or c == "\n" else " " if c.isspace() else "\ufffd" for c in text)
    return "".join(kept)


def one_line(text: str) -> str:
    """The same on one line: a name cannot look like a line of its own."""
    return clean(text).replace("\n", " ")


def plain(text: str) -> str:
    """Text for a cell of a spreadsheet, which would take a leading = for a formula; so it would
    after a semicolon, where that separates cells.
    """
    return FORMULA.sub(r"\1'\2", clean(text))


def counts(rows: list[Row]) -> list[bool]:
    """Which rows count: of a student's submissions of one notebook the best, or the first such."""
    best = {}
    for i, row in enumerate(rows):
        j = best.setdefault((row.student, row.notebook), i)
        if row.points > rows[j].points:
            best[row.student, row.notebook] = i
    chosen = set(best.values())
    return [i in chosen and row.notebook != "" for i, row in enumerate(rows)]


def answers_csv(rows: list[Row], unread: list[Unread] = ()) -> str:
    """A line for each student and exercise, with what the student was told."""
    head = "student file counts notebook exercise level points of status hint text".split()
    lines = []
    for row, best in zip(rows, counts(rows), strict=True):
        who = [row.student, row.name, YES[best]]
        if not row.marks:
            lines.append([*who, "", "", "", 0, 0, "missing", "", row.note])
        for mark in row.marks:
            level = EXERCISES[mark.exercise].level
            lines.append([*who, row.notebook, mark.exercise, level, mark.points])
            lines[-1] += [POINTS[level], mark.status, mark.hint, mark.text]
    lines += [["", name, "no", "", "", "", 0, 0, "not read", "", why] for name, why in unread]
    return _csv(head, lines)


def table_csv(rows: list[Row], unread: list[Unread] = ()) -> str:
    """A line for each submission, a column for each exercise of the notebooks handed in."""
    names = [name for notebook in _notebooks(rows) for name in NOTEBOOKS[notebook]]
    lines = []
    for row, best in zip(rows, counts(rows), strict=True):
        said = {mark.exercise: _said(mark) for mark in row.marks}
        lines.append(
            [row.student, row.name, YES[best], row.notebook, row.points, row.of]
            + [said.get(name, "") for name in names]
            + [row.note.replace("\n", "; ")]
        )
    blank = [""] * len(names)
    lines += [["", name, "no", "", 0, 0, *blank, f"not read: {why}"] for name, why in unread]
    return _csv(["student", "file", "counts", "notebook", "points", "of", *names, "note"], lines)


def _csv(head: list[str], lines: list[list]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(head)
    for line in lines:
        writer.writerow([plain(v) if isinstance(v, str) else v for v in line])
    return file.getvalue()


def _said(mark) -> str:
    return f"{mark.status}: {mark.hint}" if mark.hint else mark.status


def _notebooks(rows: list[Row]) -> list[str]:
    return sorted({row.notebook for row in rows if row.notebook})


def lines(row: Row) -> str:
    """A row for the terminal: what a student sees of the mark."""
    found = [f"{one_line(row.student)}: {one_line(row.name)}: {row.points} of {row.of} points"]
    for mark in row.marks:
        level = EXERCISES[mark.exercise].level
        found.append(f"  {SIGNS[mark.status]} {mark.exercise} ({level}): {one_line(_said(mark))}")
        if mark.text and mark.status != "correct":
            found += ["      " + text for text in clean(mark.text).splitlines()]
    return "\n".join(found + [f"  note: {text}" for text in clean(row.note).splitlines()])


def unread_lines(unread: list[Unread]) -> str:
    """What was handed in and not read, for the terminal."""
    return "\n".join(f"not read: {one_line(name)}: {one_line(why)}" for name, why in unread)


def page(rows: list[Row], unread: list[Unread] = ()) -> str:
    """All of it as one HTML page without scripts; everything from a submission is escaped."""
    parts = [f"<h1>Marks</h1><p>{len(rows)} submissions. {_legend()}</p>", _totals(rows)]
    if unread:
        told = "".join(f"<li>{_e(name)}: {_e(why)}</li>" for name, why in unread)
        parts.append(f"<h2>Handed in, and not read</h2><ul>{told}</ul>")
    for notebook in _notebooks(rows):
        own = [row for row in rows if row.notebook == notebook]
        parts += [f"<h2>{html.escape(notebook)}</h2>", _grid(notebook, own), _class(notebook, own)]
    if others := [row for row in rows if not row.notebook]:
        parts.append("<h2>Of no notebook</h2><ul>")
        parts += [f"<li>{_e(r.student)}: {_e(r.name)}: {_e(r.note)}</li>" for r in others]
        parts.append("</ul>")
    parts += ["<h2>What each student was told</h2>", *map(_details, rows)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Marks</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _e(text: str) -> str:
    return html.escape(clean(text))


def _legend() -> str:
    levels = ", ".join(f"{level} {points}" for level, points in POINTS.items())
    signs = " ".join(
        f'<span class="{s.replace(" ", "-")}">&nbsp;{sign}&nbsp;</span> {s}'
        for s, sign in SIGNS.items()
    )
    return f"Points: {levels}.<br>{signs}"


def _table(rows: Iterable[str]) -> str:
    return f'<div class="wide"><table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def _number(value) -> str:
    return f'<td class="number">{value}</td>'


def _totals(rows: list[Row]) -> str:
    """Students x notebooks; where a notebook was handed in twice, the better one counts."""
    notebooks, best = _notebooks(rows), collections.defaultdict(dict)
    for row, count in zip(rows, counts(rows), strict=True):
        best[row.student] |= {row.notebook: row.points} if count else {}
    most = {n: sum(POINTS[EXERCISES[e].level] for e in NOTEBOOKS[n]) for n in notebooks}
    table = [f"<th>student</th>{''.join(f'<th>{_e(n)}</th>' for n in notebooks)}<th>points</th>"]
    for student, own in [*sorted(best.items()), ("of", most)]:
        cells = [own.get(n, "") for n in notebooks] + [f"<b>{sum(own.values())}</b>"]
        table.append(f"<th>{_e(student)}</th>{''.join(map(_number, cells))}")
    return _table(table)


def _grid(notebook: str, rows: list[Row]) -> str:
    head = "".join(
        f'<th class="turned" title="{_e(EXERCISES[e].goal)}">'
        f"<div>{e} <small>{POINTS[EXERCISES[e].level]}</small></div></th>"
        for e in NOTEBOOKS[notebook]
    )
    table = [f"<th>student</th>{head}<th>points</th>"]
    students = collections.Counter(row.student for row in rows)
    for row, count in zip(rows, counts(rows), strict=True):
        file = f" <small>{_e(row.name)}{'' if count else ', does not count'}</small>"
        file = file if students[row.student] > 1 else ""
        cells = "".join(
            f'<td class="sign {m.status.replace(" ", "-")}" title="{_e(_said(m))}">'
            f"{SIGNS[m.status]}</td>"
            for m in row.marks
        )
        table.append(f"<th>{_e(row.student)}{file}</th>{cells}{_number(row.points)}")
    return _table(table)


def _class(notebook: str, rows: list[Row]) -> str:
    """How the class did, and the slip most made."""
    heads = ("exercise", "level", "goal", "right", "slip most made")
    table = ["".join(f"<th>{head}</th>" for head in heads)]
    for i, name in enumerate(NOTEBOOKS[notebook]):
        marks = [row.marks[i] for row in rows]
        right = sum(mark.status == "correct" for mark in marks)
        hints = collections.Counter(mark.hint for mark in marks if mark.hint).most_common(1)
        slip = "".join(f"{_e(hint)} <small>({count})</small>" for hint, count in hints)
        told = f"<td>{EXERCISES[name].level}</td><td>{_e(EXERCISES[name].goal)}</td>"
        told += f"{_number(f'{right} of {len(marks)}')}<td>{slip}</td>"
        table.append(f"<td><code>{name}</code></td>{told}")
    return f"<details><summary>how the class did</summary>{_table(table)}</details>"


def _details(row: Row) -> str:
    told = ""
    for mark in row.marks:
        if mark.status in ("correct", "not attempted"):
            continue
        hint = f'<div class="hint">{_e(mark.hint)}</div>' if mark.hint else ""
        text = f"<pre>{_e(mark.text)}</pre>" if mark.text not in ("", row.note) else ""
        told += (
            f'<p><code>{mark.exercise}</code> <span class="{mark.status.replace(" ", "-")}">'
            f"&nbsp;{mark.status}&nbsp;</span></p>{hint}{text}"
        )
    note = f"<pre>{_e(row.note)}</pre>" if row.note else ""
    return (
        f"<details><summary>{_e(row.student)}, {_e(row.name)}: {row.points} of {row.of}"
        f"</summary>{told or '<p>nothing to say</p>'}{note}</details>"
    )
