"""Say in one sentence why requirements.txt cannot be installed by this Python, or else nothing.

    python tools/supported.py            before the Makefile makes .venv with this Python
    python tools/supported.py .venv      when PYTHON is given: is .venv one of this Python?

It is run by whatever Python somebody has, so it is written for old ones, too.
"""

import os
import platform
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 14)  # what the pinned torch and numpy have wheels for


def dotted(version):
    return ".".join(str(number) for number in version[:2])


def reason(version, system, machine):
    """Why the pinned packages have no wheels for this Python and computer; None if they do."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        return (
            "minisd needs Python " + dotted(OLDEST) + " to " + dotted(NEWEST) + " and this is "
            "Python " + dotted(version) + ": name one of those, as in make PYTHON=python3.12 test"
        )
    if (system, machine) == ("Darwin", "x86_64"):
        return (
            "PyTorch is no longer built for Macs with an Intel processor, so minisd cannot be "
            "installed with this Python; on a Mac with an Apple chip, take a Python for arm64"
        )
    if system == "Windows" and machine.lower() == "arm64":
        return (
            "the pinned packages are not built for Windows on ARM: install minisd in WSL, "
            "which is Linux"
        )
    return None


def another(folder, version):
    """Why a virtual environment is not one of this version; None if it is or is not there."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        return None
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    there = subprocess.check_output([python, "-c", ask]).decode().strip()
    if there == dotted(version):
        return None
    return (
        folder + " was made with Python " + there + " and PYTHON is now " + dotted(version) + ": "
        "run make clean, which removes it, and then the same command again"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(another(sys.argv[1], sys.version_info))
    sys.exit(reason(sys.version_info, platform.system(), platform.machine()))
