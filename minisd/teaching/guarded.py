"""Calls of a student's function: not longer than some seconds, an error told by the student's own
line, and a note where it calls the function it was asked to write.
"""

import contextlib
import dis
import inspect
import linecache
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable, Iterable

_ALARM = getattr(signal, "SIGALRM", signal.SIGTERM)  # Windows has no alarms


class TooLong(BaseException):
    """Raised inside a function that takes too long; no `except Exception` of its own stops it."""


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raises TooLong in what runs inside, after so many seconds. In the main thread only, where
    Python handles signals; elsewhere nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TooLong

    before = signal.signal(_ALARM, stop)
    if hasattr(signal, "setitimer"):  # this one also wakes a sleeping function
        signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, if a bare `except:` ate it
        cancel = lambda: signal.setitimer(signal.ITIMER_REAL, 0)  # noqa: E731
    else:
        timer = threading.Timer(seconds, interrupt_main, [_ALARM])
        timer.daemon = True
        timer.start()
        cancel = timer.cancel
    try:
        yield
    finally:
        cancel()
        signal.signal(_ALARM, before)


@contextlib.contextmanager
def noticing(functions: Iterable[Callable]):
    """Gives a list that fills with those of the functions that are called inside, in threads too.

    A profiler goes on as before: one that was on is on again after it, and one that is started
    inside may end the watching (in Python 3.11), which proves nothing.
    """
    functions = list(functions)
    for function in functions:
        getattr(function, "cache_clear", lambda: None)()  # a cached answer would not be a call
    plain = [inspect.unwrap(function) for function in functions]
    codes = {f.__code__: f for f in plain if hasattr(f, "__code__")}
    called, before, before_threads = [], sys.getprofile(), threading.getprofile()

    def watch(frame, event, argument):
        found = codes.get(frame.f_code) if event == "call" else None
        if found is not None and found not in called:
            called.append(found)
        if callable(before):
            before(frame, event, argument)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(before_threads)
        if hasattr(before, "enable"):  # cProfile's: it cannot be set as a function is
            before.enable()
        else:
            sys.setprofile(before)


def found_in(answer: Callable, functions: Iterable[Callable | str]) -> list[Callable]:
    """The functions, where a name stands for what the notebook of the answer has of that name."""
    notebook = getattr(answer, "__globals__", {})
    found = [notebook.get(f) if isinstance(f, str) else f for f in functions]
    return [f for f in found if callable(f) and f is not answer]


def attempt(function: Callable, case: Iterable):
    """What a function answers to a case: `...` where it is a stub of another kind, one that raises
    NotImplementedError itself, or that does nothing (`pass`).
    """
    __tracebackhide__ = True
    try:
        got = function(*case)
    except NotImplementedError as error:
        trace = error.__traceback__
        if trace.tb_next and trace.tb_next.tb_next is None:  # by no function that it called
            if trace.tb_next.tb_frame.f_code is getattr(function, "__code__", None):
                return ...
        raise
    code = getattr(function, "__code__", None)
    nothing = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    if got is None and code and nothing.issuperset(i.opname for i in dis.get_instructions(code)):
        return ...
    return got


def own_line(error: BaseException, function: Callable) -> str:
    """The last line of the student's own file that the error passed: "line 3 of my_f: `...`"."""
    file = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == file:
            text = linecache.getline(file, trace.tb_lineno).strip()
            place = f"line {trace.tb_lineno} of the cell, in {code.co_name}"
            place += f": `{text[:120]}`" if text else ""
        trace = trace.tb_next
    return place


def full_name(function: Callable) -> str:
    """Where a function is from: "minisd.equations.ddpm.pred_x0"."""
    function = inspect.unwrap(function)
    return f"{function.__module__}.{function.__qualname__}"
