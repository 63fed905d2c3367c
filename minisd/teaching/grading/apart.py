"""What keeps a notebook apart from the others: a user of its own, a folder that no other can enter,
limits of memory and disk, and an end to all that it started.
"""

import contextlib
import ctypes
import errno
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator

import psutil

PACKAGE = pathlib.Path(__file__).parents[2]
RUNNERS: set[int] = set()  # the processes that we started ourselves and wait for
STARTING = threading.Lock()
# Ends all processes of a user in one call, which no process that forks can outrun. Its real user
# is another one, so that none of them can end it first. Then it removes System V's shared memory,
# semaphores and queues, which outlive the processes that made them (on Linux).
ENDER = """import ctypes, os, sys
other, user = map(int, sys.argv[1:])
os.setresuid(other, user, other)
try: os.kill(-1, 9)
except ProcessLookupError: pass
c = ctypes.CDLL(None)
for kind, remove in ("shm", c.shmctl), ("msg", c.msgctl), ("sem", lambda i, *a: c.semctl(i, 0, 0)):
    head, *lines = [line.split() for line in open("/proc/sysvipc/" + kind)]
    for line in lines:
        if int(line[head.index("cuid")]) == user: remove(int(line[1]), 0, None)
"""
PREFIX = "minisd-grade-"  # of the folders of the notebooks
SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")  # all can write there
PROBE = """import os, sys
for n, path in enumerate(sys.argv[1:]):
    if os.access(path, os.R_OK) or os.access(path, os.X_OK): print(n)
"""
NEEDED = "import jupyter_client, psutil, zmq, torch, ipykernel\n"


class Stopped(BaseException):
    """Raised where the grader itself is told to stop while a notebook runs."""


def users_of(name: str, jobs: int) -> range:
    """The user of each job: numbers from that of `name` on (a name or a number itself), every
    second one, as ENDER needs one, too. Raises ValueError where one of them is in use.
    """
    if os.name != "posix":
        raise ValueError("--user works on Linux and macOS only: use a container")
    import grp
    import pwd

    advice = f"give a number from which on {2 * jobs} are free, such as --user 20000"
    try:
        own = None if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"there is no user {name}: {advice}") from None
    first, group = (own.pw_uid, own.pw_gid) if own else (int(name), None)
    if first == 0:
        raise ValueError(f"user {name} is root, who can read and end everything: {advice}")
    taken = {a.pw_uid: f"the number of user {a.pw_name}" for a in pwd.getpwall() if own != a}
    taken |= {
        g.gr_gid: f"the number of group {g.gr_name}" for g in grp.getgrall() if g.gr_gid != group
    }
    for process in psutil.process_iter(["uids"]):
        if process.info["uids"]:
            taken[process.info["uids"].real] = f"the user of process {process.pid}"
    for number in range(first, first + 2 * jobs):
        if number in taken:
            raise ValueError(f"{number} is {taken[number]}: {advice}")
    return range(first, first + 2 * jobs, 2)


def try_users(users: range, private: Iterable[pathlib.Path]) -> str:
    """A warning, or "". Raises ValueError where notebooks cannot be run as these users, or could
    read one of the private files and folders.
    """
    private, secret, root = list(private), [PACKAGE / "teaching" / "exercises"], PACKAGE.parent
    if (root / "notebooks" / "solutions").is_dir():  # a checkout
        secret += [p for n in ("notebooks", "tests", "build", ".git") if (p := root / n).exists()]
    paths, read = [str(path.absolute()) for path in private + secret], set()
    try:
        for user in users:
            with own_folder(user) as folder:
                command = [sys.executable, "-c", PROBE + NEEDED * (user == users[0]), *paths]
                how = {"cwd": folder, "stdin": subprocess.DEVNULL, "capture_output": True}
                run = subprocess.run(command, **how, **as_user(user))
                end_all(user)
            if run.returncode:
                raise OSError(run.stderr.decode(errors="replace").strip().splitlines()[-1])
            read |= {paths[int(n)] for n in run.stdout.split()}
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(
            f"notebooks cannot be run as user {users[0]} with {sys.executable}, for which you must "
            f"be root and may change users (in a container: not without its usual capabilities), "
            f"and others must be able to read Python's files: {error}"
        ) from None
    if found := [path for path in paths[: len(private)] if path in read]:
        raise ValueError(
            f"user {users[0]}, as whom notebooks run, can read {found[0]}, and with it what others "
            f"returned: `chmod 700 {shlex.join(found)}` (in a container also: mount it inside "
            "root's home)"
        )
    found = [path for path in paths[len(private) :] if path in read]
    return found and (
        f"user {users[0]}, as whom notebooks run, can read answers in {found[0]}; "
        f"`chmod 700 {shlex.join(found)}` closes them, and the grader works as before"
    )


def as_user(user: int | None) -> dict:
    """What Popen needs to start a process as this user, who is a member of no other group."""
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


@contextlib.contextmanager
def own_folder(user: int | None) -> Iterator[pathlib.Path]:
    """An empty folder for one notebook, which its user can enter, but neither list nor replace its
    place; it goes at the end, with what the user left where every user can write.
    """
    if user is not None:  # a grader that was killed has left what this notebook could read
        end_all(user)
        old = _owned(user, pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*/job"))
        _remove([job.parent for job in old] + _litter(user))
    place = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        (place / "job").mkdir(0o700)
        give(place / "job", user)
        place.chmod(0o700 if user is None else 0o711)
        yield place / "job"
    finally:
        _remove([place, *_litter(user)])


def _remove(paths: list[pathlib.Path]) -> None:
    """Files and folders: by `rm`, as rmtree fails in folders a thousand deep."""
    if os.name != "posix":
        shutil.rmtree(paths[0], ignore_errors=True)
        return
    for i in range(0, len(paths), 300):  # a command has a longest length
        command = ["rm", "-rf", "--", *paths[i : i + 300]]
        subprocess.run(command, cwd="/", stderr=subprocess.DEVNULL)


def give(path: pathlib.Path, user: int | None) -> None:
    """The path belongs to the user from now on."""
    if user is not None:
        os.chown(path, user, user, follow_symlinks=False)


def _litter(user: int | None) -> list[pathlib.Path]:
    """What the user left in the folders where all can write."""
    found = []
    for folder in {*SHARED, tempfile.gettempdir()} if user else ():
        with contextlib.suppress(OSError):
            found += _owned(user, pathlib.Path(folder).iterdir())
    return found


def _owned(user: int, paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError):  # it may have gone meanwhile
            found += [path] if path.lstat().st_uid == user else []
    return found


def run_apart(command, env: dict, folder, settings, stop: threading.Event) -> str:
    """Run the command in the folder as the user of the settings, and end all that it started. Why
    it was ended, or "". Raises Stopped once `stop` is set.
    """
    how = {"cwd": folder, "env": env, "start_new_session": True} | as_user(settings.user)
    silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with STARTING:
        process = subprocess.Popen(command, **how, **silent)
        RUNNERS.add(process.pid)
    end, looked, why = time.monotonic() + 2 * settings.seconds + 300, time.monotonic(), ""
    try:
        while process.poll() is None and time.monotonic() < end:
            if stop.wait(0.2):
                raise Stopped
            if time.monotonic() > looked + 1:
                why = _too_large(process.pid, settings) or why
                if size([folder, *_litter(settings.user)], settings.disk) > settings.disk:
                    most = f"{settings.disk / 1e9:g} GB"
                    return f"it wrote more than {most} to the disk, or into folders too deep"
                looked = time.monotonic()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
        end_all(settings.user, env["MINISD_GRADE"])
        process.wait()
        RUNNERS.discard(process.pid)
    return why


def _too_large(runner: int, settings) -> str:
    """Ends a process of the notebook with too much memory, shared memory counted (on Linux)."""
    with STARTING, contextlib.suppress(psutil.Error, OSError):
        processes = psutil.Process(runner).children(recursive=True)
        if settings.user is not None:
            processes = [p for p in psutil.process_iter() if _is_left(p, settings.user, "")]
        for process in processes:
            with contextlib.suppress(psutil.Error, OSError):  # it may have ended meanwhile
                used = sum(int(_status(process, name)) for name in ("RssAnon", "RssShmem"))
                if used > settings.gigabytes * 2**20:
                    process.kill()
                    most = f"{settings.gigabytes:g} GB"
                    return f"a process took more than {most} of memory and was ended"
    return ""


def _status(process: psutil.Process, name: str) -> bytes:
    """The first number of a line that Linux writes about a process; 0 if there is none. (psutil
    looks for "Uid:" in all of the text: a process may have that in its own name.)
    """
    text = pathlib.Path(f"/proc/{process.pid}/status").read_bytes()
    found = re.search(rb"^%s:\s*(\d+)" % name.encode(), text, re.M)
    return found[1] if found else b"0"


def size(paths: list[pathlib.Path], most: float) -> float:
    """The bytes of files and folders on the disk, a block or more each; counted up to `most`.
    Infinite where folders are too deep to look into.
    """
    total, todo = 0, list(paths)
    while todo and total <= most:
        path = todo.pop()
        try:
            state = os.lstat(path)
            total += max(getattr(state, "st_blocks", state.st_size // 512) * 512, 4096)
            if stat.S_ISDIR(state.st_mode):
                todo += [entry.path for entry in os.scandir(path)]
        except OSError as error:
            total += math.inf if error.errno == errno.ENAMETOOLONG else 0
    return total


def adopt() -> None:
    """On Linux, what loses its parent among our descendants becomes a child of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end_all(user: int | None, mark: str = "") -> None:
    """End what a notebook left behind: every process of its user. Where it has none of its own:
    every process with this mark in its environment, and those that adopt() brought to us.
    """
    for _ in range(50):
        if user is not None:
            command = [sys.executable, "-IS", "-c", ENDER, str(user + 1), str(user)]
            with contextlib.suppress(OSError):  # no process can be started: what follows ends some
                subprocess.run(command, cwd="/", stderr=subprocess.DEVNULL)
        with STARTING:
            left = [p for p in psutil.process_iter() if _is_left(p, user, mark)]
        for process in left:
            with contextlib.suppress(psutil.Error, OSError):
                process.kill()
        if not left:
            return
        time.sleep(0.1)
    if user is not None:
        raise OSError("what a notebook started does not end")


def _is_left(process: psutil.Process, user: int | None, mark: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        adopted = process.ppid() == os.getpid() and process.pid not in RUNNERS
        adopted = adopted and os.name == "posix" and os.getsid(process.pid) != os.getsid(0)
        if process.status() == psutil.STATUS_ZOMBIE:
            if adopted:
                process.wait(0)
            return False
        if user is not None:
            linux = sys.platform == "linux"
            return (int(_status(process, "Uid")) if linux else process.uids().real) == user
        return adopted or process.environ().get("MINISD_GRADE") == mark
    return False
