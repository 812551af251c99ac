"""Reports that a reader can sign: one self-contained file each, made from the files of a run directory alone."""

from robustkit.report.audit_report import write_report
from robustkit.report.comparison import write_comparison
from robustkit.report.hardening import write_hardening
from robustkit.report.overlay import write_overlay
from robustkit.report.paper import figures
from robustkit.report.pdf import write_as, write_pdf
from robustkit.report.profile import write_profile_page
from robustkit.report.rebuild import rebuild
from robustkit.report.reproduction import write_reproduction
from robustkit.report.training import write_training
from robustkit.report.variability import write_variability

__all__ = [
    "figures",
    "rebuild",
    "write_as",
    "write_comparison",
    "write_hardening",
    "write_overlay",
    "write_pdf",
    "write_profile_page",
    "write_report",
    "write_reproduction",
    "write_training",
    "write_variability",
]
