"""The command line: python -m minisd "a red circle to the left of a blue square"."""

import signal
import sys

from .command.terminal import (  # little, for Ctrl-C: the rest is for main
    say,
    sentence,
    uninterrupted,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or what went wrong: 1 a mistake, 2 wrong arguments, 130 Ctrl-C."""
    written = []
    try:
        with uninterrupted():
            from .command.run import run
        return run(sys.argv[1:] if arguments is None else list(arguments), written)
    except KeyboardInterrupt:
        return say(f"stopped; pictures written: {len(written)}", 130)
    except Exception as error:
        return say(sentence(error), 1)


def program() -> None:
    """main for a shell: once it is done, no Ctrl-C disturbs the end of the process."""
    try:
        sys.exit(main())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    program()
