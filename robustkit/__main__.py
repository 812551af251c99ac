"""The `robustkit` command from its first moment to its last: Ctrl-C or SIGTERM at any time ends it with one line."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from robustkit.errors import INTERRUPTED


def run() -> None:
    """Load the command line and run it; what its exit code is, no later Ctrl-C changes."""
    asked: list[int] = []
    decided: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        if not decided:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a shell
            signal.signal(number, stop)
    decided.append(_run(asked))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from robustkit.patience import leave

    leave(decided[0])
    sys.exit(decided[0])


def _run(asked: list[int]) -> int:
    """Return the exit code; `asked` holds the signals that came, of which libraries make errors of other names."""
    try:
        from robustkit.cli.main import main
    except BaseException:
        if not asked:
            raise
        print("interrupted before anything was done", file=sys.stderr)
        return INTERRUPTED
    with suppress(KeyboardInterrupt):  # a second one, while the first was answered
        return main(asked)
    return INTERRUPTED


if __name__ == "__main__":
    run()
