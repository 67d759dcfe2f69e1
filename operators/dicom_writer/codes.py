"""Every code that the outputs use, and the private coding scheme for what has no standard code.

Standard codes are in pydicom's copy of the DICOM dictionaries (a test looks each one up). The
private scheme ``99MSLFU`` is declared in the Coding Scheme Identification Sequence of every report.
"""

from __future__ import annotations

from collections.abc import Mapping

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from operators import version
from operators.messages import Change, Region

PRIVATE_SCHEME = "99MSLFU"

# --- standard codes -------------------------------------------------------------------------------

MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION_OF_BRAIN = Code("301766008", "SCT", "Lesion of Brain")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
BRAIN = Code("12738006", "SCT", "Brain")
CEREBRAL_WHITE_MATTER = Code("68523003", "SCT", "Cerebral White Matter")
BRAIN_MRI = Code("24590-2", "LN", "Brain MRI")
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
VOLUME = Code("118565006", "SCT", "Volume")
DIAMETER = Code("81827009", "SCT", "Diameter")
MAXIMUM = Code("56851009", "SCT", "Maximum")
CENTRE_OF_MASS = Code("128138", "DCM", "Center of Mass")
NUMBER_OF_LESIONS = Code("246206008", "SCT", "Number of lesions")
TOTAL = Code("255619001", "SCT", "Total")
COMMENT = Code("121106", "DCM", "Comment")
INCREASED = Code("15454001", "SCT", "Increase in size")
DECREASED = Code("19776001", "SCT", "Decrease in size")
NO_CHANGE = Code("260388006", "SCT", "No change")
BASELINE = Code("C1442488", "UMLS", "Baseline")
MILLIMETRE = Code("mm", "UCUM", "mm")
DAY = Code("d", "UCUM", "day")
ONE = Code("1", "UCUM", "no units")

STANDARD_CODES = (
    MORPHOLOGICALLY_ABNORMAL,
    LESION_OF_BRAIN,
    ARTIFICIAL_INTELLIGENCE,
    BRAIN,
    CEREBRAL_WHITE_MATTER,
    BRAIN_MRI,
    IMAGING_MEASUREMENT_REPORT,
    VOLUME,
    DIAMETER,
    MAXIMUM,
    CENTRE_OF_MASS,
    NUMBER_OF_LESIONS,
    TOTAL,
    COMMENT,
    INCREASED,
    DECREASED,
    NO_CHANGE,
    BASELINE,
    MILLIMETRE,
    DAY,
    ONE,
)

# --- units that UCUM defines beyond DICOM's own list ----------------------------------------------

MILLILITRE = Code("ml", "UCUM", "ml")

# --- private codes --------------------------------------------------------------------------------


def _private(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


CHANGE = _private("CHANGE", "Change since prior study")
PRIOR_VOLUME = _private("PRIORVOL", "Volume in prior study")
PRIOR_DIAMETER = _private("PRIORDIAM", "Maximum 3D diameter in prior study")
PRIOR_TOTAL_VOLUME = _private("PRIORTOTVOL", "Total lesion volume in prior study")
VOXEL_CENTRES = _private("VOXCENTRES", "3D, between voxel centres")
"""How a diameter was measured: IBSI's maximum 3D diameter (L0JK) is that of a mesh around the
voxels, hence larger by about a voxel."""
LESION_PROBABILITY = _private("MEANPROB", "Mean lesion probability")
NEW_COUNT = _private("NEWCOUNT", "Number of new lesions")
ENLARGING_COUNT = _private("ENLCOUNT", "Number of enlarging lesions")
SHRINKING_COUNT = _private("SHRCOUNT", "Number of shrinking lesions")
RESOLVED_COUNT = _private("RESCOUNT", "Number of resolved lesions")
PRIOR_STUDY = _private("PRIORSTUDY", "Prior study")
QUALITY_NOTE = _private("QUALITY", "Quality note")
INTENDED_USE = _private("USE", "Intended use")
MODEL = _private("MODEL", "Segmentation model")
VOLUME_LOW = _private("VOLLOW", "Volume, lower limit of 95 % interval")
VOLUME_HIGH = _private("VOLHIGH", "Volume, upper limit of 95 % interval")
PRIOR_VOLUME_LOW = _private("PRIORVOLLOW", "Volume in prior study, lower limit of 95 % interval")
PRIOR_VOLUME_HIGH = _private("PRIORVOLHIGH", "Volume in prior study, upper limit of 95 % interval")
CHANGE_CONFIDENCE = _private("CHANGECONF", "Confidence of change since prior study")
CHANGE_SINCE_FIRST = _private("CHANGEFIRST", "Change since first study")
VENTRICLE_DISTANCE = _private("VENTDIST", "Distance to lateral ventricle")
CORTEX_DISTANCE = _private("CORTEXDIST", "Distance to cortex")
LINEAGE = _private("LINEAGE", "Tracking UID of earlier lesion that it came from")
EARLIER_VOLUME = _private("EARLIERVOL", "Volume in earlier study")
EARLIER_TOTAL_VOLUME = _private("EARLIERTOTVOL", "Total lesion volume in earlier study")
FOUND_BY = _private("FOUNDBY", "Found by")
COMPARISON = _private("COMPARISON", "Comparison of the images of two studies")

CHANGE_CODES: Mapping[Change, Code] = {
    "baseline": _private("BASELINE", "Baseline, no prior study compared"),
    "new": _private("NEW", "New lesion"),
    "enlarging": INCREASED,
    "stable": NO_CHANGE,
    "shrinking": DECREASED,
    "resolved": _private("RESOLVED", "Resolved lesion"),
    "merged": _private("MERGED", "Merged from several lesions"),
    "split": _private("SPLIT", "Split from one lesion"),
}

REGION_SITES: Mapping[Region, Code] = {
    "periventricular": CEREBRAL_WHITE_MATTER,
    "juxtacortical": CEREBRAL_WHITE_MATTER,
    "infratentorial": BRAIN,
    "deep_white_matter": CEREBRAL_WHITE_MATTER,
    "unspecified": BRAIN,
}
"""The anatomical structure that a standard code can name."""

REGION_MODIFIERS: Mapping[Region, Code | None] = {
    "periventricular": _private("PERIVENT", "Periventricular"),
    "juxtacortical": _private("JUXTACORT", "Juxtacortical"),
    "infratentorial": _private("INFRATENT", "Infratentorial"),
    "deep_white_matter": _private("DEEPWM", "Deep white matter"),
    "unspecified": None,
}
"""What part of it: the MS regions of the McDonald criteria have no standard codes."""

PRIVATE_CODES = (
    CHANGE,
    PRIOR_VOLUME,
    PRIOR_DIAMETER,
    PRIOR_TOTAL_VOLUME,
    VOXEL_CENTRES,
    LESION_PROBABILITY,
    NEW_COUNT,
    ENLARGING_COUNT,
    SHRINKING_COUNT,
    RESOLVED_COUNT,
    PRIOR_STUDY,
    QUALITY_NOTE,
    INTENDED_USE,
    MODEL,
    VOLUME_LOW,
    VOLUME_HIGH,
    PRIOR_VOLUME_LOW,
    PRIOR_VOLUME_HIGH,
    CHANGE_CONFIDENCE,
    CHANGE_SINCE_FIRST,
    VENTRICLE_DISTANCE,
    CORTEX_DISTANCE,
    LINEAGE,
    EARLIER_VOLUME,
    EARLIER_TOTAL_VOLUME,
    FOUND_BY,
    COMPARISON,
    *(code for code in CHANGE_CODES.values() if code.scheme_designator == PRIVATE_SCHEME),
    *(code for code in REGION_MODIFIERS.values() if code is not None),
)


def private_scheme() -> CodingSchemeIdentificationItem:
    """The declaration of the private scheme (PS3.3 C.12.1.1.1)."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name=f"{version.NAME} private codes",
        responsible_organization=version.MANUFACTURER,
    )
