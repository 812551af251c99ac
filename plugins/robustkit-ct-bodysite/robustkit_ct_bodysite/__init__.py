"""A whole-body CT phantom, a virtual cohort, and a body-site classifier worth auditing."""

__version__ = "0.1.0"
