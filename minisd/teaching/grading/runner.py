"""Runs one notebook in a kernel and asks its functions, in a process of its own.

    python -m minisd.teaching.grading.runner FOLDER

FOLDER holds job.json (see jobs.py), the requests, and `work`, the empty folder the notebook runs
in. result.json is written there. What runs here may die, or be killed by the student's code: the
process that started it waits for no longer than it said.
"""

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import zmq
from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

MOST = 8_000_000  # bytes of an answer, or of a message
STARTS = 4  # of kernels for one notebook; each costs a run
START_SECONDS = 120


class Kernel:
    """A fresh IPython kernel that can die. Nothing it prints or draws is read."""

    def __init__(self, folder: pathlib.Path, number: int):
        connection = str(folder / f"kernel-{number}.json")
        # Sockets in our folder, where there are: any user could listen on a port of the machine.
        ours = {"transport": "ipc", "ip": f"../kernel-{number}"} if os.name == "posix" else {}
        write_connection_file(connection, **ours)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", connection],
            cwd=folder / "work",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        context = zmq.Context()
        context.setsockopt(zmq.MAXMSGSIZE, MOST)  # a longer reply is as none
        self.client = BlockingKernelClient(connection_file=connection, context=context)
        self.client.load_connection_file()
        self.client.start_channels(shell=True, iopub=False, stdin=False, hb=False, control=False)
        self.ready = self._reply(self.client.kernel_info(), START_SECONDS) is not None

    def run(self, code: str, seconds: float) -> str:
        """ "ok", the error as text, "timed out" (and interrupted), or "died"."""
        # By default a kernel throws away what follows an error for a moment: the next cell.
        options = {"store_history": False, "allow_stdin": False, "stop_on_error": False}
        try:
            message = self.client.execute(code, **options)
        except UnicodeError as error:  # half of a character cannot be sent
            return f"{type(error).__name__}: {error}"[:500]
        reply = self._reply(message, seconds)
        if reply is None and self.alive() and os.name == "posix":
            self.process.send_signal(signal.SIGINT)
            if self._reply(message, 5) is not None:
                return "timed out"
        if reply is None:
            late = self.alive()
            self.close()
            return "timed out" if late else "died"
        if any(part.get("source") == "ask_exit" for part in reply.get("payload", [])):
            self.close()  # exit() or quit(): it would die a moment later
            return "died"
        if reply.get("status") == "ok":
            return "ok"
        return f"{reply.get('ename')}: {reply.get('evalue')}"[:500]

    def alive(self) -> bool:
        return self.process.poll() is None

    def _reply(self, message: str, seconds: float) -> dict | None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                reply = self.client.get_shell_msg(timeout=min(left, 0.5))
            except Exception:  # nothing yet, or a message that is none
                if not self.alive():
                    return None
                continue
            if reply.get("parent_header", {}).get("msg_id") == message:
                return reply.get("content", {})
        return None

    def close(self) -> None:
        """The kernel and what it started in its session end."""
        if os.name == "posix":
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.kill()
        self.process.wait()
        self.client.stop_channels()


class Run:
    """A notebook on its way through kernels: what dies or hangs is left out in the next one."""

    def __init__(self, folder: pathlib.Path, job: dict):
        self.folder, self.job = folder, job
        self.left = job["seconds"]  # for the cells of all runs together
        self.notes: dict[int, str] = {}  # cell -> what went wrong
        self.fatal: set[int] = set()  # cells that end a kernel
        self.starts, self.kernel = 0, None

    def fresh(self) -> bool:
        """A kernel in which the cells have been run; False when there have been too many."""
        while self.starts < STARTS:
            self.starts += 1
            self.kernel = Kernel(self.folder, self.starts)
            if self.kernel.ready and self._run_cells():
                return True
            self.kernel.close()
        return False

    def _run_cells(self) -> bool:
        for number, code in enumerate(self.job["cells"]):
            if number in self.fatal:
                continue
            late = self.left <= 0
            if late and not any(f"def {name}" in code for name in self.job["functions"].values()):
                self.notes.setdefault(number, "not run: the notebook's time was over")
                continue
            start = time.monotonic()
            said = self.kernel.run(code, 5 if late else min(self.left, self.job["seconds"] / 3))
            self.left -= time.monotonic() - start
            if said != "ok":
                self.notes[number] = said
            if not self.kernel.alive():
                self.fatal.add(number)
                return False
        return True

    def ask(self, exercise: str) -> dict:
        """{"answers": text} of an exercise, or {"failed": why}."""
        if (self.kernel is None or not self.kernel.alive()) and not self.fresh():
            return {"failed": "the notebook's kernel died again and again"}
        answers = self.folder / f"answers-{exercise}"
        request = self.folder / f"request-{exercise}.json"
        said = self.kernel.run(
            "from sys import modules as _modules\n"  # a student may have a variable `globals`
            "from minisd.teaching.grading.kernel import ask as _ask\n"
            f"_ask(_modules['__main__'].__dict__, {str(request)!r}, {str(answers)!r})",
            self.job["ask_seconds"],
        )
        if said in ("timed out", "died"):
            self.kernel.close()
            return {"failed": said}
        text = read(answers)
        if text is None:
            return {"failed": "its answers have more than 8 MB" if said == "ok" else said}
        return {"answers": text}


def read(path: pathlib.Path) -> str | None:
    """The text of a plain file of at most MOST bytes; None for a pipe, a link, or a longer one."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        return None
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode) or state.st_size > MOST:
        os.close(handle)
        return None
    with os.fdopen(handle, "rb") as file:
        return file.read(MOST).decode("utf-8", "replace")


def limit(gigabytes: float, apart: bool) -> None:
    """Limits of memory, of a file's size, and, for a user apart, of the number of processes, for
    this process and all it starts, where there are such limits.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    most = int(gigabytes * 2**30)
    limits = [("RLIMIT_DATA", most), ("RLIMIT_FSIZE", 2**30), ("RLIMIT_CORE", 0)]
    limits.append(("RLIMIT_NOFILE", 1024))
    for name, value in limits + [("RLIMIT_NPROC", 300)] * apart:
        hard = resource.getrlimit(getattr(resource, name))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, name), (value, value))


def main() -> None:
    """Run the job in the folder named on the command line."""
    folder = pathlib.Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    limit(job["gigabytes"], job["apart"])
    os.chdir(folder / "work")  # as the kernels do: a socket's path must be short
    run = Run(folder, job)
    run.fresh()
    found = {exercise: run.ask(exercise) for exercise in job["functions"]}
    if run.kernel is not None and run.kernel.alive():
        run.kernel.close()
    result = {"notes": run.notes, "answers": found, "started": run.starts}
    (folder / "result.part").write_text(json.dumps(result))
    os.replace(folder / "result.part", folder / "result.json")


if __name__ == "__main__":
    main()
