"""How three manufacturers fill the headers of the same sequences.

The values follow what Siemens, GE and Philips scanners write for these sequences; no private
elements, and every device and site is invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

VendorName = Literal["siemens", "ge", "philips", "enhanced"]
Numbering = Literal["ascending", "descending", "interleaved"]


@dataclass(frozen=True)
class Vendor:
    """A manufacturer's habits."""

    name: VendorName
    equipment: Mapping[str, Any]
    """Attributes of every image of the device."""
    sequences: Mapping[str, Mapping[str, Any]]
    """Attributes by sequence."""
    character_set: str
    transfer_syntax: UID
    numbering: Numbering
    """How Instance Number runs with the slice position, from feet to head."""
    rescaled: bool
    """Whether each slice has its own Rescale Slope, as Philips images have."""
    extension: str
    folders: bool
    """One folder per series; otherwise one folder for the study."""


def _frozen(**sequences: dict[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return MappingProxyType({k: MappingProxyType(v) for k, v in sequences.items()})


SIEMENS = Vendor(
    "siemens",
    MappingProxyType(
        {
            "Manufacturer": "SIEMENS",
            "ManufacturerModelName": "Skyra",
            "DeviceSerialNumber": "00000",
            "SoftwareVersions": "syngo MR E11",
            "StationName": "DEMOMR1",
            "MagneticFieldStrength": 3,
            "ImagingFrequency": 123.25,
        }
    ),
    _frozen(
        flair={
            "SeriesDescription": "t2_tirm_tra_dark-fluid_3mm",
            "ProtocolName": "t2_tirm_tra_dark-fluid_3mm",
            "ScanningSequence": ["SE", "IR"],
            "SequenceVariant": ["SK", "SP", "MP"],
            "ScanOptions": ["IR", "PFP", "FS"],
            "SequenceName": "*tir2d1_16",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
            "RepetitionTime": 9000,
            "EchoTime": 120,
            "InversionTime": 2500,
            "FlipAngle": 150,
            "EchoTrainLength": 16,
        },
        t2={
            "SeriesDescription": "t2_tse_tra_3mm",
            "ProtocolName": "t2_tse_tra_3mm",
            "ScanningSequence": "SE",
            "SequenceVariant": ["SK", "SP"],
            "ScanOptions": "PFP",
            "SequenceName": "*tse2d1_14",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
            "RepetitionTime": 5200,
            "EchoTime": 98,
            "FlipAngle": 150,
            "EchoTrainLength": 14,
        },
        t1={
            "SeriesDescription": "t1_mprage_sag_p2_iso",
            "ProtocolName": "t1_mprage_sag_p2_iso",
            "ScanningSequence": ["GR", "IR"],
            "SequenceVariant": ["SK", "SP", "MP"],
            "ScanOptions": "IR",
            "SequenceName": "*tfl3d1_16ns",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
            "RepetitionTime": 2300,
            "EchoTime": 2.98,
            "InversionTime": 900,
            "FlipAngle": 9,
            "EchoTrainLength": 1,
        },
        t1_contrast={
            "SeriesDescription": "t1_se_tra_KM",
            "ProtocolName": "t1_se_tra_KM",
            "ScanningSequence": "SE",
            "SequenceVariant": "SP",
            "ScanOptions": "",
            "SequenceName": "*se2d1",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
            "RepetitionTime": 550,
            "EchoTime": 9,
            "FlipAngle": 90,
            "EchoTrainLength": 1,
            "ContrastBolusAgent": "Gadovist",
        },
        dual_echo={
            "SeriesDescription": "pd+t2_tse_tra",
            "ProtocolName": "pd+t2_tse_tra",
            "ScanningSequence": "SE",
            "SequenceVariant": ["SK", "SP"],
            "ScanOptions": "",
            "SequenceName": "*tse2d2_10",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
            "RepetitionTime": 3200,
            "EchoTime": 11,
            "FlipAngle": 150,
            "EchoTrainLength": 10,
        },
        diffusion={
            "SeriesDescription": "ep2d_diff_b0_b1000",
            "ProtocolName": "ep2d_diff_b0_b1000",
            "ScanningSequence": "EP",
            "SequenceVariant": ["SK", "SP"],
            "ScanOptions": ["PFP", "FS"],
            "SequenceName": "*ep_b1000t",
            "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "NORM"],
            "RepetitionTime": 6800,
            "EchoTime": 85,
            "FlipAngle": 90,
            "EchoTrainLength": 1,
        },
        adc={
            "SeriesDescription": "ep2d_diff_b0_b1000_ADC",
            "ProtocolName": "ep2d_diff_b0_b1000",
            "ScanningSequence": "EP",
            "SequenceVariant": ["SK", "SP"],
            "ScanOptions": ["PFP", "FS"],
            "SequenceName": "ep_b0_1000",
            "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "NORM"],
            "RepetitionTime": 6800,
            "EchoTime": 85,
            "FlipAngle": 90,
            "EchoTrainLength": 1,
        },
        localizer={
            "SeriesDescription": "localizer",
            "ProtocolName": "localizer",
            "ScanningSequence": "GR",
            "SequenceVariant": ["SP", "OSP"],
            "ScanOptions": "",
            "SequenceName": "*fl2d1",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"],
            "RepetitionTime": 8.6,
            "EchoTime": 4,
            "FlipAngle": 20,
            "EchoTrainLength": 1,
        },
    ),
    "ISO_IR 100",
    ExplicitVRLittleEndian,
    "ascending",
    False,
    ".dcm",
    True,
)

GE = Vendor(
    "ge",
    MappingProxyType(
        {
            "Manufacturer": "GE MEDICAL SYSTEMS",
            "ManufacturerModelName": "SIGNA Premier",
            "DeviceSerialNumber": "00000",
            "SoftwareVersions": ["29", "LX", "MR Software release:RX29.1_R02_2131.a"],
            "StationName": "DEMOMR2",
            "MagneticFieldStrength": 3,
            "ImagingFrequency": 127.77,
        }
    ),
    _frozen(
        flair={
            "SeriesDescription": "Ax T2 FLAIR FS",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": ["SE", "IR"],
            "SequenceVariant": "SK",
            "ScanOptions": ["FAST_GEMS", "EDR_GEMS", "TRF_GEMS", "FS"],
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "RepetitionTime": 9002,
            "EchoTime": 119.904,
            "InversionTime": 2473,
            "FlipAngle": 160,
            "EchoTrainLength": 24,
        },
        t2={
            "SeriesDescription": "Ax T2 FRFSE",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "ScanOptions": ["FAST_GEMS", "EDR_GEMS", "TRF_GEMS"],
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "RepetitionTime": 5417,
            "EchoTime": 102.48,
            "FlipAngle": 142,
            "EchoTrainLength": 20,
        },
        t1={
            "SeriesDescription": "Sag T1 BRAVO",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": "GR",
            "SequenceVariant": ["SS", "SP", "SK"],
            "ScanOptions": ["FAST_GEMS", "EDR_GEMS", "ACC_GEMS"],
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "RepetitionTime": 8.204,
            "EchoTime": 3.22,
            "FlipAngle": 12,
            "EchoTrainLength": 1,
        },
        t1_contrast={
            "SeriesDescription": "Ax T1 SE +C",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": "SE",
            "SequenceVariant": "NONE",
            "ScanOptions": "FC_SLICE_AX_GEMS",
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "RepetitionTime": 566.6,
            "EchoTime": 10,
            "FlipAngle": 90,
            "EchoTrainLength": 1,
            "ContrastBolusAgent": "Dotarem",
        },
        dual_echo={
            "SeriesDescription": "Ax PD/T2 dual echo",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "ScanOptions": ["FAST_GEMS", "EDR_GEMS"],
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "RepetitionTime": 3000,
            "EchoTime": 11,
            "FlipAngle": 142,
            "EchoTrainLength": 10,
        },
        diffusion={
            "SeriesDescription": "Ax DWI b1000",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": ["EP", "SE"],
            "SequenceVariant": "NONE",
            "ScanOptions": ["EPI_GEMS", "PFF", "FS"],
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "RepetitionTime": 7000,
            "EchoTime": 82.1,
            "FlipAngle": 90,
            "EchoTrainLength": 1,
        },
        adc={
            "SeriesDescription": "Apparent Diffusion Coefficient (mm2/s)",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": ["EP", "SE"],
            "SequenceVariant": "NONE",
            "ScanOptions": ["EPI_GEMS", "PFF", "FS"],
            "ImageType": ["DERIVED", "SECONDARY", "COMBINED"],
            "RepetitionTime": 7000,
            "EchoTime": 82.1,
            "FlipAngle": 90,
            "EchoTrainLength": 1,
        },
        localizer={
            "SeriesDescription": "3-pl Loc",
            "ProtocolName": "MS follow-up",
            "ScanningSequence": "GR",
            "SequenceVariant": ["SP", "SK"],
            "ScanOptions": "FAST_GEMS",
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "RepetitionTime": 5.3,
            "EchoTime": 1.7,
            "FlipAngle": 30,
            "EchoTrainLength": 1,
        },
    ),
    "ISO_IR 100",
    RLELossless,
    "descending",
    False,
    "",
    True,
)

PHILIPS = Vendor(
    "philips",
    MappingProxyType(
        {
            "Manufacturer": "Philips Medical Systems",
            "ManufacturerModelName": "Ingenia",
            "DeviceSerialNumber": "00000",
            "SoftwareVersions": ["5.3.0", "5.3.0.3"],
            "StationName": "DEMOMR3",
            "MagneticFieldStrength": 3,
            "ImagingFrequency": 127.76,
        }
    ),
    _frozen(
        flair={
            "SeriesDescription": "T2W_FLAIR_SPIR TRA",
            "ProtocolName": "T2W_FLAIR_SPIR TRA",
            "ScanningSequence": "IR",
            "SequenceVariant": "SK",
            "ScanOptions": "FS",
            "ImageType": ["ORIGINAL", "PRIMARY", "M_IR", "M", "IR"],
            "RepetitionTime": 11000,
            "EchoTime": 125,
            "InversionTime": 2800,
            "FlipAngle": 90,
            "EchoTrainLength": 27,
        },
        t2={
            "SeriesDescription": "T2W_TSE TRA",
            "ProtocolName": "T2W_TSE TRA",
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "ScanOptions": "OTHER",
            "ImageType": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
            "RepetitionTime": 3000,
            "EchoTime": 80,
            "FlipAngle": 90,
            "EchoTrainLength": 15,
        },
        t1={
            "SeriesDescription": "sT1W_3D_TFE SAG",
            "ProtocolName": "sT1W_3D_TFE SAG",
            "ScanningSequence": "GR",
            "SequenceVariant": "MP",
            "ScanOptions": "OTHER",
            "ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
            "RepetitionTime": 7.61,
            "EchoTime": 3.53,
            "FlipAngle": 8,
            "EchoTrainLength": 240,
        },
        t1_contrast={
            "SeriesDescription": "T1W_SE TRA Gd",
            "ProtocolName": "T1W_SE TRA Gd",
            "ScanningSequence": "SE",
            "SequenceVariant": "OSP",
            "ScanOptions": "OTHER",
            "ImageType": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
            "RepetitionTime": 580,
            "EchoTime": 10,
            "FlipAngle": 70,
            "EchoTrainLength": 1,
            "ContrastBolusAgent": "Gadoterate",
        },
        dual_echo={
            "SeriesDescription": "PDT2_TSE TRA",
            "ProtocolName": "PDT2_TSE TRA",
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "ScanOptions": "OTHER",
            "ImageType": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
            "RepetitionTime": 3000,
            "EchoTime": 11,
            "FlipAngle": 90,
            "EchoTrainLength": 10,
        },
        diffusion={
            "SeriesDescription": "DWI_b1000",
            "ProtocolName": "DWI_b1000",
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "ScanOptions": ["FS", "PFF"],
            "ImageType": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
            "RepetitionTime": 4200,
            "EchoTime": 78,
            "FlipAngle": 90,
            "EchoTrainLength": 61,
        },
        adc={
            "SeriesDescription": "dADC",
            "ProtocolName": "DWI_b1000",
            "ScanningSequence": "SE",
            "SequenceVariant": "SK",
            "ScanOptions": ["FS", "PFF"],
            "ImageType": ["DERIVED", "PRIMARY", "ADC", "ADC", "UNSPECIFIED"],
            "RepetitionTime": 4200,
            "EchoTime": 78,
            "FlipAngle": 90,
            "EchoTrainLength": 61,
        },
        localizer={
            "SeriesDescription": "Survey",
            "ProtocolName": "Survey",
            "ScanningSequence": "GR",
            "SequenceVariant": "MP",
            "ScanOptions": "OTHER",
            "ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
            "RepetitionTime": 11,
            "EchoTime": 4.6,
            "FlipAngle": 15,
            "EchoTrainLength": 1,
        },
    ),
    "ISO_IR 192",
    JPEGLSLossless,
    "interleaved",
    True,
    "",
    False,
)

ENHANCED = Vendor(
    "enhanced",
    MappingProxyType(
        {
            "Manufacturer": "Siemens Healthineers",
            "ManufacturerModelName": "MAGNETOM Vida",
            "DeviceSerialNumber": "00000",
            "SoftwareVersions": "syngo MR XA30",
            "StationName": "DEMOMR4",
            "MagneticFieldStrength": 3,
            "ImagingFrequency": 123.25,
        }
    ),
    SIEMENS.sequences,
    "ISO_IR 192",
    ExplicitVRLittleEndian,
    "ascending",
    False,
    ".dcm",
    True,
)

VENDORS: Mapping[VendorName, Vendor] = MappingProxyType(
    {v.name: v for v in (SIEMENS, GE, PHILIPS, ENHANCED)}
)
