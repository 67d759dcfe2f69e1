"""Volumes as Enhanced MR Image objects (PS3.3 A.36), one multi-frame file per series."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from demo.acquisition import Contrast
from demo.dicom_series import SeriesHeader, StudyHeader, as_file, decimal_string, encode_pixels

_ACQUISITION_CONTRAST = {"FLAIR": "FLUID_ATTENUATED", "T2": "T2", "T1": "T1"}


def enhanced_series(
    volume: hd.Volume,
    study: StudyHeader,
    series: SeriesHeader,
    contrast: Contrast,
    *,
    shuffle_seed: int | None = None,
) -> FileDataset:
    """One series as one multi-frame image.

    Parameters
    ----------
    volume
        Axes slices, rows, columns; whole numbers from 0 to 65535.
    study, series
        The headers; of the series' attributes the equipment, description and protocol are used.
    contrast
        Physics of the sequence.
    shuffle_seed
        Puts the frames in a random order, which the standard permits.

    Returns
    -------
    pydicom.dataset.FileDataset
        Enhanced MR Image Storage with shared and per-frame functional groups.
    """
    array = np.asarray(volume.array)
    affine = np.asarray(volume.affine)
    order = np.arange(len(array))[::-1]
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(len(array))
    pixels, slope, intercept = encode_pixels(array)
    dataset = Dataset()
    study.apply(dataset)
    _image_module(dataset, study, series, contrast, len(array))
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(affine, series, contrast)]
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [
        _item(
            RescaleIntercept=decimal_string(intercept),
            RescaleSlope=decimal_string(slope),
            RescaleType="US",
        )
    ]
    from_feet = {int(k): n for n, k in enumerate(np.arange(len(array))[::-1], start=1)}
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [_frame_groups(affine, int(k), from_feet[int(k)], dataset) for k in order]
    )
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = array.shape[1:]
    bits = 12 if pixels.max() < 4096 else 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.ascontiguousarray(pixels[order]).tobytes()
    dataset["PixelData"].VR = "OW"
    return as_file(dataset)


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)


def _image_module(
    dataset: Dataset, study: StudyHeader, series: SeriesHeader, contrast: Contrast, frames: int
) -> None:
    """Series, equipment, Enhanced MR Image, pulse sequence, dimension and context modules."""
    given = series.attributes
    day = study.acquired.strftime("%Y%m%d")
    gradient = contrast.name == "T1"
    attributes: dict[str, object] = {
        "SOPClassUID": EnhancedMRImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=[series.series_uid, "enhanced"]),
        "Modality": "MR",
        "SeriesInstanceUID": series.series_uid,
        "SeriesNumber": series.number,
        "SeriesDescription": given["SeriesDescription"],
        "ProtocolName": given["ProtocolName"],
        "SeriesDate": day,
        "SeriesTime": series.time,
        "BodyPartExamined": "BRAIN",
        "PatientPosition": "HFS",
        "Manufacturer": given["Manufacturer"],
        "ManufacturerModelName": given["ManufacturerModelName"],
        "DeviceSerialNumber": given["DeviceSerialNumber"],
        "SoftwareVersions": given["SoftwareVersions"],
        "StationName": given["StationName"],
        "InstitutionName": "Demo Hospital",
        "FrameOfReferenceUID": study.frame_of_reference_uid,
        "PositionReferenceIndicator": "",
        "InstanceNumber": 1,
        "ContentDate": day,
        "ContentTime": series.time,
        "NumberOfFrames": frames,
        "ImageType": ["ORIGINAL", "PRIMARY", _ACQUISITION_CONTRAST[contrast.name], "NONE"],
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
        "ComplexImageComponent": "MAGNITUDE",
        "AcquisitionContrast": _ACQUISITION_CONTRAST[contrast.name],
        "AcquisitionNumber": 1,
        "AcquisitionDateTime": day + series.time,
        "AcquisitionDuration": 240.0,
        "ContentQualification": "RESEARCH",
        "ResonantNucleus": "1H",
        "KSpaceFiltering": "NONE",
        "MagneticFieldStrength": float(given["MagneticFieldStrength"]),
        "ApplicableSafetyStandardAgency": "IEC",
        "ApplicableSafetyStandardDescription": "IEC 60601-2-33",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "PresentationLUTShape": "IDENTITY",
        "PulseSequenceName": given.get("SequenceName", contrast.name),
        "MRAcquisitionType": "3D" if series.three_d else "2D",
        "EchoPulseSequence": "GRADIENT" if gradient else "SPIN",
        "MultiPlanarExcitation": "NO",
        "PhaseContrast": "NO",
        "TimeOfFlightContrast": "NO",
        "SteadyStatePulseSequence": "NONE",
        "EchoPlanarPulseSequence": "NO",
        "SaturationRecovery": "NO",
        "SpectrallySelectedSuppression": "FAT" if contrast.name == "FLAIR" else "NONE",
        "OversamplingPhase": "NONE",
        "GeometryOfKSpaceTraversal": "RECTILINEAR",
        "RectilinearPhaseEncodeReordering": "LINEAR",
        "SegmentedKSpaceTraversal": "SINGLE" if gradient else "PARTIAL",
        "NumberOfKSpaceTrajectories": 1,
        "AcquisitionContextSequence": Sequence([]),
    }
    if not gradient:
        attributes |= {"MultipleSpinEcho": "YES"}
    if series.three_d:
        attributes |= {"CoverageOfKSpace": "FULL"}
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    _dimensions(dataset, series)


def _dimensions(dataset: Dataset, series: SeriesHeader) -> None:
    organisation = generate_uid(entropy_srcs=[series.series_uid, "dimensions"])
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organisation)]
    dataset.DimensionOrganizationType = "3D"
    pointers = [
        ("StackID", 0x00209056, "Stack ID"),
        ("InStackPositionNumber", 0x00209057, "In-Stack Position Number"),
    ]
    dataset.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=tag,
            FunctionalGroupPointer=0x00209111,
            DimensionDescriptionLabel=label,
        )
        for _, tag, label in pointers
    ]


def _shared_groups(affine: np.ndarray, series: SeriesHeader, contrast: Contrast) -> Dataset:
    """Functional groups that are equal in all frames."""
    given = series.attributes
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1]
    gradient = contrast.name == "T1"
    inverted = contrast.inversion_time_ms is not None
    modifier = _item(
        InversionRecovery="YES" if inverted else "NO",
        FlowCompensation="NONE",
        Spoiling="RF" if gradient else "NONE",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    if inverted:
        modifier.InversionTimes = [float(contrast.inversion_time_ms or 0.0)]
    imaging = _item(
        MagnetizationTransfer="NONE",
        BloodSignalNulling="NO",
        Tagging="NONE",
        TransmitterFrequency=float(given["ImagingFrequency"]),
        PixelBandwidth=200.0,
    )
    timing = _item(
        RepetitionTime=decimal_string(contrast.repetition_time_ms),
        FlipAngle=decimal_string(contrast.flip_angle_deg),
        EchoTrainLength=contrast.echo_train_length,
        RFEchoTrainLength=contrast.echo_train_length if not gradient else 0,
        GradientEchoTrainLength=1 if gradient else 0,
        GradientOutputType="DB_DT",
        GradientOutput=20.0,
    )
    timing.SpecificAbsorptionRateSequence = [
        _item(SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=0.5)
    ]
    timing.OperatingModeSequence = [
        _item(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL"),
        _item(OperatingModeType="RF", OperatingMode="IEC_NORMAL"),
        _item(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL"),
    ]
    anatomy = _item(FrameLaterality="U")
    anatomy.AnatomicRegionSequence = [_code("12738006", "Brain")]
    frame_type = _item(
        FrameType=["ORIGINAL", "PRIMARY", _ACQUISITION_CONTRAST[contrast.name], "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent="MAGNITUDE",
        AcquisitionContrast=_ACQUISITION_CONTRAST[contrast.name],
    )
    geometry = _item(
        InPlanePhaseEncodingDirection="ROW",
        MRAcquisitionFrequencyEncodingSteps=256,
        MRAcquisitionPhaseEncodingStepsInPlane=256,
        PercentSampling="100",
        PercentPhaseFieldOfView="100",
    )
    if series.three_d:
        geometry.MRAcquisitionPhaseEncodingStepsOutOfPlane = 160
    receive = _item(
        ReceiveCoilName="Head_32",
        ReceiveCoilManufacturerName="",
        ReceiveCoilType="MULTICOIL",
        QuadratureReceiveCoil="NO",
    )
    receive.MultiCoilDefinitionSequence = [
        _item(MultiCoilElementName="H1", MultiCoilElementUsed="YES")
    ]
    transmit = _item(
        TransmitCoilName="Body", TransmitCoilManufacturerName="", TransmitCoilType="BODY"
    )
    averages = _item(NumberOfAverages="1")
    return _item(
        PixelMeasuresSequence=[
            _item(
                PixelSpacing=[decimal_string(spacing[1]), decimal_string(spacing[2])],
                SliceThickness=decimal_string(spacing[0]),
                SpacingBetweenSlices=decimal_string(spacing[0]),
            )
        ],
        PlaneOrientationSequence=[
            _item(ImageOrientationPatient=[decimal_string(v) for v in (*row, *column)])
        ],
        FrameAnatomySequence=[anatomy],
        MRImageFrameTypeSequence=[frame_type],
        MRTimingAndRelatedParametersSequence=[timing],
        MRFOVGeometrySequence=[geometry],
        MREchoSequence=[_item(EffectiveEchoTime=contrast.echo_time_ms)],
        MRModifierSequence=[modifier],
        MRImagingModifierSequence=[imaging],
        MRReceiveCoilSequence=[receive],
        MRTransmitCoilSequence=[transmit],
        MRAveragesSequence=[averages],
        FrameVOILUTSequence=[_item(WindowCenter="400", WindowWidth="800")],
    )


def _frame_groups(affine: np.ndarray, k: int, stack_position: int, image: Dataset) -> Dataset:
    """Functional groups of one frame."""
    content = _item(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime=image.AcquisitionDateTime,
        FrameAcquisitionDateTime=image.AcquisitionDateTime,
        FrameAcquisitionDuration=240.0,
        DimensionIndexValues=[1, stack_position],
        StackID="1",
        InStackPositionNumber=stack_position,
    )
    position = (affine @ np.array([k, 0.0, 0.0, 1.0]))[:3]
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=[decimal_string(v) for v in position])],
    )
