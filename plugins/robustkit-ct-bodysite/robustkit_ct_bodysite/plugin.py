"""What this plugin offers to robustkit; everything heavy is imported inside the hooks."""

from __future__ import annotations
