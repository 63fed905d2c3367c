"""One student cannot touch another's mark: the attacks of attacks.py, beside honest notebooks and
alone, by users of their own and without.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import attacks
import psutil
import pytest

import minisd
from minisd.__main__ import main
from minisd.teaching.grading import apart
from minisd.teaching.grading.grade import grade_all
from minisd.teaching.grading.jobs import Row, Settings
from minisd.teaching.grading.submission import collect

ROOT = pathlib.Path(minisd.__file__).parents[1]
FIRST = attacks.FIRST
as_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can run things as others"
)
HOW = [pytest.param(True, marks=as_root, id="users"), pytest.param(False, id="own rights")]


@pytest.fixture
def place(monkeypatch):
    """A folder that everybody can enter, with the temporary folder of the grader in it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="minisd-place-"))
    folder.chmod(0o755)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def interpreter():
    """One that others can run: this one, or the system's with our packages."""
    how = {"capture_output": True, "cwd": "/", **apart.as_user(FIRST)}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        pathlib.Path(folder).chmod(0o755)
        found = sys.executable
        if not runs([found, "-c", "pass"], how):
            system = f"/usr/bin/python3.{sys.version_info.minor}"
            if not runs([system, "-c", "pass"], how):
                pytest.skip("there is no interpreter that another user can run")
            subprocess.run([system, "-m", "venv", "--without-pip", folder], check=True)
            [packages] = pathlib.Path(folder).glob("lib/*/site-packages")
            (packages / "ours.pth").write_text(str(pathlib.Path(pytest.__file__).parents[1]))
            found = f"{folder}/bin/python"
        if not runs([found, "-c", apart.NEEDED], how):
            pytest.skip("other users cannot read the installed packages")
        yield found


def runs(command, how) -> bool:
    try:
        return subprocess.run(command, **how).returncode == 0
    except OSError:
        return False


@pytest.fixture(params=HOW)
def users(request, monkeypatch):
    """Whether each job has a user of its own."""
    if request.param:
        monkeypatch.setattr(sys, "executable", request.getfixturevalue("interpreter"))
    return request.param


@pytest.fixture
def checkout(place, monkeypatch):
    """A copy of the exercises and a solutions notebook, where the grader takes its own to lie."""
    for part in ("minisd", "notebooks/solutions"):
        shutil.copytree(
            ROOT / part,
            place / "checkout" / part,
            ignore=shutil.ignore_patterns("*.safetensors", "__pycache__", "[13-9]*.ipynb"),
        )
    monkeypatch.setattr(apart, "PACKAGE", place / "checkout" / "minisd")


def run(place, students, jobs, users: bool, **limits) -> dict[str, Row]:
    """student -> row."""
    folder = attacks.write(place, students)
    if users:
        folder.chmod(0o700)
        (place / "checkout/minisd/teaching/exercises").chmod(0o700)
        (place / "checkout/notebooks").chmod(0o700)
        own = apart.users_of(str(FIRST), jobs)
        assert not apart.try_users(own, [folder])
    rows = grade_all(
        collect([folder])[0], place, jobs, Settings(60, **limits), own if users else ()
    )
    assert not list((place / "tmp").iterdir())  # nothing is left of the jobs
    return {row.student: row for row in rows}


def lasting(place) -> list:
    """Processes that name the place, or are one of the users', and do not end by themselves."""
    end = time.monotonic() + 10
    while (found := still_there(place)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def still_there(place) -> list:
    found = []
    for process in psutil.process_iter(["cmdline", "uids", "status"]):
        text = " ".join(process.info["cmdline"] or [])
        ended = process.info["status"] == psutil.STATUS_ZOMBIE  # its parent has not asked yet
        if process.info["uids"].real in range(FIRST, FIRST + 10) or str(place) in text:
            found += [] if ended else [text]
    return found


def test_classmates_keep_their_points(place, checkout, users):
    students = {
        "a": attacks.honest,
        "b": attacks.thief,
        "c": attacks.saboteur,
        "d": attacks.filler,
        "e": attacks.honest,
    }
    rows = run(place, students, 2, users, disk=100e6)
    assert rows["a"].points == rows["e"].points == 12, rows
    assert "more than 0.1 GB" in rows["d"].note and rows["d"].points == 0
    stolen = [mark.status for mark in rows["b"].marks][:4]
    assert not lasting(place)
    if users:
        assert rows["b"].points == 0 and "heard []" in rows["b"].marks[4].text
        assert "PermissionError" in rows["b"].marks[1].text + rows["b"].marks[2].text
    else:  # as docs/TEACHING.md says; it also shows that the thief knows how
        assert stolen[1:] == ["correct"] * 3, [m.text for m in rows["b"].marks]


def test_one_after_the_other(place, checkout, users):
    """What a notebook leaves behind does not reach the next one; alone, a thief has nothing."""
    students = {"a": attacks.saboteur, "c": attacks.honest}
    if users:
        students |= {"b": attacks.forker, "d": attacks.thief}
    rows = run(place, students, 1, users)
    assert rows["c"].points == 12 and not lasting(place)
    assert not users or rows["d"].points == 0


DIG = """
import os
for start in (".", "/dev/shm"):
    os.chdir(start)
    for _ in range(1500):
        os.mkdir("deep")
        os.chdir("deep")
"""
SYSTEM_V = """
import ctypes
c = ctypes.CDLL(None)
assert min(c.shmget(0, ctypes.c_size_t(4096), 0o600), c.semget(0, 1, 0o600), c.msgget(0, 0)) >= 0
"""


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="on Linux")
def test_what_outlives_processes_is_removed(place, interpreter, monkeypatch):
    """Else it takes the memory of all that follow, or fails those of the same user."""
    monkeypatch.setattr(sys, "executable", interpreter)
    with apart.own_folder(FIRST) as folder:
        command = [interpreter, "-c", DIG + SYSTEM_V]
        subprocess.run(command, cwd=folder, check=True, **apart.as_user(FIRST))
        assert apart.size([folder], 1e9) > 1e9  # too deep to be counted
        assert pathlib.Path("/dev/shm/deep").exists()
        apart.end_all(FIRST)
    assert not pathlib.Path("/dev/shm/deep").exists() and not list((place / "tmp").iterdir())
    for path in pathlib.Path("/proc/sysvipc").iterdir():
        assert not any(str(FIRST) in line.split() for line in path.read_text().splitlines())


@as_root
def test_what_a_killed_grader_left_is_removed(place, interpreter, monkeypatch):
    """Its notebooks' folders belong to users whose numbers are given again."""
    monkeypatch.setattr(sys, "executable", interpreter)
    for user in (FIRST, FIRST + 2):
        folder = place / "tmp" / f"{apart.PREFIX}{user}" / "job"
        folder.mkdir(parents=True)
        apart.give(folder, user)
    with apart.own_folder(FIRST) as own:
        left = {path.name for path in (place / "tmp").iterdir()}
        assert left == {own.parent.name, f"{apart.PREFIX}{FIRST + 2}"}


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="a process has such names on Linux")
def test_a_process_cannot_lie_about_its_user(interpreter, monkeypatch):
    """By its name: it would count as a neighbour's, or as nobody's."""
    monkeypatch.setattr(sys, "executable", interpreter)
    code = (
        "import ctypes, time\nkept = b'x' * 10**8\n"
        f"ctypes.CDLL(None).prctl(15, b'Uid:\\t{FIRST + 2}\\t1\\t1\\xff')\n"
        "print(flush=True)\ntime.sleep(30)"
    )
    command = [interpreter, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, **apart.as_user(FIRST)) as process:
        process.stdout.readline()
        limits = Settings(gigabytes=0.05)
        assert apart._too_large(os.getpid(), limits._replace(user=FIRST + 2)) == ""
        assert process.poll() is None
        assert "0.05 GB" in apart._too_large(os.getpid(), limits._replace(user=FIRST))
        assert process.wait(5) == -9


@as_root
def test_processes_end_where_no_other_can_be_started(interpreter, monkeypatch):
    with subprocess.Popen(["sleep", "30"], **apart.as_user(FIRST)) as process:

        def full(*a, **k):
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(subprocess, "run", full)
        apart.end_all(FIRST)
        assert process.wait(5) == -9


@as_root
def test_what_a_user_could_read_is_told(place, checkout, interpreter, monkeypatch, capsys):
    """Refused or told in a sentence, whose command closes what it names."""
    monkeypatch.setattr(sys, "executable", interpreter)
    folder = attacks.write(place, {})
    command = ["grade", str(folder), "--out", str(place / "out")]
    command += ["--user", str(FIRST), "--jobs", "1"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert str(folder) in said and "can read" in said
    subprocess.run(said.split("`")[1], shell=True, check=True)
    assert main(command) == 0  # the folder of the tables was made so that no other can read it
    said = capsys.readouterr().err
    assert said.startswith("minisd: warning: ") and "/checkout/minisd/teaching/exercises" in said
    subprocess.run(said.split("`")[1], shell=True, check=True)
    assert main(command) == 0 and "warning" not in capsys.readouterr().err
    assert (place / "checkout/notebooks").stat().st_mode & 0o77 == 0


@as_root
@pytest.mark.parametrize(
    "name, why", [("root", "is root"), ("0", "is root"), ("no-such-user", "there is no user")]
)
def test_a_user_that_will_not_do_is_told(name, why):
    with pytest.raises(ValueError, match=why) as error:
        apart.users_of(name, 2)
    advised = str(error.value).split("--user ")[1]
    assert list(apart.users_of(advised, 2)) == [20000, 20002]


@as_root
def test_a_user_with_processes_or_an_account_is_not_taken():
    with subprocess.Popen(["sleep", "30"], **apart.as_user(FIRST + 3)) as process:
        with pytest.raises(ValueError, match=f"{FIRST + 3} is the user of process {process.pid}"):
            apart.users_of(str(FIRST), 2)
        process.kill()
    with pytest.raises(ValueError, match="is the number of"):
        apart.users_of("1", 2)  # an account by its number, and its neighbours


def test_who_may_not_change_users_is_told(monkeypatch):
    def refused(*a, **k):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(subprocess, "run", refused)
    monkeypatch.setattr(apart, "give", lambda *a: None)
    with pytest.raises(ValueError, match="you must be root"):
        apart.try_users(range(FIRST, FIRST + 2, 2), [])
