"""Small DICOM CT files, made here: classic and enhanced, with every element a test may want to change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid


def body(height=48, width=40, seed=0, sigma=12.0):
    """Return a disc of water in air with white noise, (H, W) whole HU as int."""
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 2.6) ** 2
    noise = np.random.default_rng(seed).normal(0, sigma, (height, width))
    return np.rint(np.where(inside, 40, -950) + noise).astype(int)


def common(hu, sop_class):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "MRN-4711"
    dataset.Modality, dataset.Manufacturer = "CT", "SIEMENS"
    dataset.Rows, dataset.Columns = hu.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.clip(hu + 1024, 0, 4095).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def classic(hu=None, **changes):
    """Return a single-frame CT dataset; `changes` sets elements by keyword, None deletes one."""
    hu = body() if hu is None else hu
    dataset = common(hu, CTImageStorage)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PixelSpacing = [0.75, 0.5]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-100, -100, 30], [1, 0, 0, 0, 1, 0]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.KVP, dataset.SliceThickness, dataset.ConvolutionKernel = 120, 3, "B40f"
    dataset.Exposure, dataset.XRayTubeCurrent, dataset.ExposureTime = 100, 200, 500
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def item(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced(stack, mas):
    """Return an enhanced multi-frame CT: frame i lies at 5 i mm, with rescale intercept -1024 and `mas[i]`."""
    dataset = common(stack, EnhancedCTImageStorage)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames = len(stack)
    shared = item(
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.75, 0.5], SliceThickness=5)]),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]),
        CTReconstructionSequence=Sequence([item(ConvolutionKernel="Br40d", ReconstructionDiameter=30.0)]),
        CTXRayDetailsSequence=Sequence([item(KVP=100.0)]),
    )
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, 5 * i])]),
            CTExposureSequence=Sequence([item(ExposureInmAs=float(m))]),
            CTImageFrameTypeSequence=Sequence([item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]),
        )
        for i, m in enumerate(mas)
    )
    return dataset


def write(dataset, path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return str(path)


class Make:
    """The makers above, for tests."""

    body = staticmethod(body)
    classic = staticmethod(classic)
    enhanced = staticmethod(enhanced)
    item = staticmethod(item)
    write = staticmethod(write)


@pytest.fixture(scope="session")
def make():
    return Make


@pytest.fixture
def real_data():
    root = os.environ.get("ROBUSTKIT_TEST_DATA")
    if not root:
        pytest.skip("real CT images are found by ROBUSTKIT_TEST_DATA, which is not set")
    return Path(root)
