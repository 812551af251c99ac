"""Reports that a reader can sign: one self-contained file each, made from the files of a run directory alone."""

from robustkit.report.audit_report import write_report
from robustkit.report.comparison import write_comparison
from robustkit.report.overlay import write_overlay
from robustkit.report.paper import figures
from robustkit.report.profile import write_profile_page

__all__ = ["figures", "write_comparison", "write_overlay", "write_profile_page", "write_report"]
