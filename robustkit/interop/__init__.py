"""Other toolkits, thinly: robustkit's noise and models under their interfaces, their models under ours.

`maite`, `art` and `nrtk` each import their own toolkit; this package and `noise`, `predict` import none of them.
"""

from robustkit.interop.noise import Perturbation
from robustkit.interop.predict import from_predict

__all__ = ["Perturbation", "from_predict"]
