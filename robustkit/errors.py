"""What can go wrong, by whose hand, and the exit code each kind gives (0, 1 and 3 are verdicts, not errors)."""

from __future__ import annotations

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C or SIGTERM ended."""


class RobustkitError(Exception):
    """A user's mistake or a broken input: one line that names the thing, what was asked, what is there, the cure."""

    exit_code = 4


class UsageError(RobustkitError):
    """The command was asked for something that does not exist or makes no sense (exit 2)."""

    exit_code = 2


class DataError(RobustkitError):
    """Images, repeats or a profile that cannot be used as they are (exit 4)."""


class ModelError(RobustkitError):
    """A model file that cannot be loaded or scored as it is (exit 4)."""


class MissingExtraError(RobustkitError):
    """An optional dependency is absent; the message carries the pip line that cures it (exit 4)."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra that is not installed: pip install 'robustkit[{extra}]'")
        self.extra = extra
