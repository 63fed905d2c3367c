"""For notebooks and classes: checks of exercises, plots, hand-outs, the grader.

`check` tries a student's function, `viz` shows sources and plots, `exercises` has every reference
with its slips, `handout` makes a class's copies, `grading` marks what comes back.
May import: everything but command. Imported by: notebooks and command; nothing else.
"""

from . import viz
from .checking import check, compare
from .viz import show

__all__ = ["check", "compare", "show", "viz"]
