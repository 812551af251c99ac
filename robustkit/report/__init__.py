"""Reports that a reader can sign: one self-contained file each, made from the files of a run directory alone."""

from robustkit.report.audit_report import write_report

__all__ = ["write_report"]
