"""The command line: python -m minisd "a red circle to the left of a blue square"."""

import gc
import signal
import sys

# Little is imported here, for Ctrl-C: the rest is for main.
from .command.terminal import STOPPED, say, sentence, uninterrupted


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or what went wrong: 1 a mistake, 2 wrong arguments, 130 Ctrl-C."""
    words, written = sys.argv[1:] if arguments is None else list(arguments), []
    try:
        with uninterrupted():
            from .command.run import run
        return run(words, written)
    except KeyboardInterrupt:
        pictures = f"stopped; pictures written: {len(written)}"
        return say(STOPPED.get(words[0] if words else "", pictures), 130)
    except Exception as error:
        return say(sentence(error), 1)


def program() -> None:
    """main for a shell: once it is done, no Ctrl-C disturbs the end of the process.

    Nor is all that was imported searched for garbage then, which took 0.25 s after torch.
    """
    try:
        sys.exit(main())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.freeze()


if __name__ == "__main__":
    program()
