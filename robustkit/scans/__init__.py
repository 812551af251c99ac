"""Reading and writing images: DICOM CT, `.npz`, NIfTI. Nothing that identifies a patient passes through."""

from robustkit.scans.load import load_images, load_repeats
from robustkit.scans.write import save_images, save_repeats, write_noisy

__all__ = ["load_images", "load_repeats", "save_images", "save_repeats", "write_noisy"]
