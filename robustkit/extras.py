"""What is optional: each extra, what it is for, whether it is there, and the line that installs it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Extra:
    """An optional dependency: its name in brackets, what it is for, the modules that show that it is there."""

    name: str
    purpose: str
    modules: tuple[str, ...]

    @property
    def installed(self) -> bool:
        """Whether all its modules are found; nothing is imported."""
        return all(find_spec(module) is not None for module in self.modules)

    @property
    def install(self) -> str:
        """The line that installs it."""
        return f"pip install 'robustkit[{self.name}]'"


EXTRAS = (
    Extra("onnx", "ONNX files written by other tools checked", ("onnx",)),
    Extra("torch", "Torch models; ONNX models trained further", ("torch", "onnxscript", "onnx", "safetensors")),
    Extra("keras", "Keras models, on the backend that is installed", ("keras", "h5py", "onnx")),
    Extra("tensorflow", "Keras models on TensorFlow, SavedModel, their export to ONNX", ("tensorflow", "tf2onnx")),
    Extra("dicom-codecs", "compressed DICOM", ("gdcm",)),
    Extra("nifti", "NIfTI volumes", ("nibabel",)),
    Extra("distributed", "audits on a Dask cluster", ("distributed",)),
    Extra("fsspec", "images and models at URLs", ("fsspec",)),
    Extra("report", "figures for papers", ("matplotlib",)),
    Extra("pdf", "reports as PDF", ("weasyprint",)),
    Extra("maite", "MAITE components", ("maite",)),
    Extra("art", "attacks and estimators of ART", ("art",)),
    Extra("nrtk", "NRTK perturbers", ("nrtk",)),
)
