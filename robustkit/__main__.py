"""The `robustkit` command from its first moment on: Ctrl-C while it loads ends it as it does later, with one line."""

from __future__ import annotations

import sys


def run() -> None:
    """Load the command line, then run it."""
    try:
        from robustkit.cli.main import main
    except KeyboardInterrupt:
        print("interrupted before anything was done", file=sys.stderr)
        raise SystemExit(130) from None
    main()


if __name__ == "__main__":
    run()
