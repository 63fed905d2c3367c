"""What the command line says, on a terminal that may not be there; and Ctrl-C during imports."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

STOPPED = {  # by Ctrl-C: what is left of a command's work; of the other commands, the pictures
    "train": "stopped; the same command goes on from the last save",
    "judge": "stopped; the rows above are whole",
    "grade": "interrupted; the same command goes on from here",
    "handout": "stopped; the copies named above are whole",
}
MEMORY = ("out of memory", "DefaultCPUAllocator", "alloc_cpu")  # how torch's errors say it


def say(sentence: str, code: int = 0) -> int:
    """A sentence on stderr, without the middle of what is too long to read, and the exit code."""
    cut = len(sentence) - 1200
    if cut > 0:
        sentence = f"{sentence[:800]} [... {cut:,} more characters ...] {sentence[-400:]}"
    tell(sys.stderr, f"minisd: {sentence}")
    return code


def tell(stream, text: str) -> None:
    """Print text, whatever the stream is: missing, closed, full, or one of few characters.

    What does not print comes as an escape, so that no text from a file commands the terminal.
    """
    text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    try:
        code = stream.encoding or "utf-8"
        print(text.encode(code, "backslashreplace").decode(code), file=stream, flush=True)
    except (AttributeError, ValueError):  # none, or closed
        pass
    except OSError:  # full, or nobody reads it; Python would try again at its end, and complain
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def sentence(error: Exception) -> str:
    """What went wrong, in words."""
    text = str(error)
    if isinstance(error, MemoryError) or any(word in text for word in MEMORY):
        return (
            "this takes more memory than there is; for a picture a smaller --size, --tile 64 "
            "(decode in tiles) and --release (hold one network at a time) take less"
        )
    if not type(error).__module__.startswith("minisd"):  # ours may tell how to mend it, in lines
        text = (text.splitlines() or [""])[0]
    known = text and isinstance(error, (ValueError, OSError, RuntimeError, ImportError))
    return text if known else f"this should not happen, {type(error).__name__}: {text}"


def say_replaced(files: Iterable[str]) -> None:
    """Which files had been there, and are others now."""
    if files := [*map(str, files)]:
        was, is_ = ("was", "is") if len(files) == 1 else ("were", "are")
        say(f"{', '.join(files)} {was} there before, and {is_} replaced")


def on_screen(stream) -> bool:
    """Does somebody see what is written there, such as a bar that moves?"""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Imports inside are not cut short by Ctrl-C: KeyboardInterrupt comes when they are done.

    torch and numpy, interrupted while they are imported, end in errors of their own, or go on as
    if nothing had been pressed. Nor does Python look for garbage meanwhile: imports leave little,
    and the search took a twentieth of torch's time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _interrupted_after():
            yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _interrupted_after() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:
        yield
        return
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
