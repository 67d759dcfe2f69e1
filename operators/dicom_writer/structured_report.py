"""The measurements as a Comprehensive 3D SR after TID 1500 (PS3.16), referring to the SEG."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    CoordinatesForMeasurement3D,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues3D,
    LongitudinalTemporalOffsetFromEvent,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    Scoord3DContentItem,
    SourceImageForMeasurement,
    SourceSeriesForSegmentation,
    TextContentItem,
    TimePointContext,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from operators import version
from operators.dicom_writer import codes
from operators.dicom_writer.common import (
    OutputContext,
    apply_common,
    device_serial_number,
    nameless,
)
from operators.messages import Lesion, Region

TOTALS_IDENTIFIER = "All lesions"
NO_LESION = "No lesion was found."
NOT_COMPARED = "No comparison with an earlier study was made."


def build_report(context: OutputContext, segmentation: Dataset) -> Comprehensive3DSR:
    """Make the structured report of a follow-up.

    The first measurement group holds the totals (TID 1501): number and volume of the lesions now
    and before, the counts of changes, and as text the intended use, the model and the quality
    notes. Then comes one group per lesion: for a present lesion a volumetric group (TID 1411) that
    refers to its segment; for a resolved one a group without a region (TID 1501) whose prior volume
    was measured at a point in the current frame of reference. Every group carries the time point
    with the days since the prior study. Volumes in studies before the prior one are measurements
    inferred from an image of that study; a lesion's lineage is one text for each earlier lesion.

    Parameters
    ----------
    context
        The run to write.
    segmentation
        The SEG made for the same context.

    Returns
    -------
    highdicom.sr.Comprehensive3DSR
        In the current study. Its evidence lists the SEG and every image used, of all studies.
    """
    groups: list[Any] = [_totals(context)]
    for lesion in context.follow_up.lesions:
        if lesion.segment_number is None:
            groups.append(_resolved(lesion, context, segmentation))
        else:
            groups.append(_present(lesion, context, segmentation))
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(context)),
        procedure_reported=codes.BRAIN_MRI,
        imaging_measurements=groups,
        title=codes.IMAGING_MEASUREMENT_REPORT,
    )
    report = Comprehensive3DSR(
        evidence=[nameless(segmentation), *_images(context)],
        content=content,
        series_instance_uid=context.series_uid("report"),
        series_number=context.series_number("report"),
        sop_instance_uid=context.instance_uid("report"),
        instance_number=1,
        manufacturer=version.MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        coding_schemes=[codes.private_scheme()],
    )
    apply_common(report, context, "report")
    return report


def _images(context: OutputContext) -> list[Dataset]:
    """Headers of every image used, the current study's first."""
    return [
        header
        for study in context.studies
        for item in study.series.values()
        for header in item.headers
    ]


def _observer(context: OutputContext) -> ObserverContext:
    identity = f"{version.NAME}\0{version.VERSION}\0{context.model.sha256}"
    digest = hashlib.sha256(identity.encode()).digest()
    return ObserverContext(
        observer_type=dicom_codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}",
            name=f"{version.NAME} {version.VERSION}",
            manufacturer_name=version.MANUFACTURER,
            model_name=f"{context.model.name} {context.model.version}",
            serial_number=device_serial_number(context),
        ),
    )


def _time_point(context: OutputContext) -> TimePointContext:
    if context.prior is None:
        return TimePointContext(
            time_point="Baseline", time_point_type=codes.BASELINE, time_point_order=1
        )
    days = context.prior.interval_days
    offset = None
    if days is not None:
        offset = LongitudinalTemporalOffsetFromEvent(
            value=days, unit=codes.DAY, event_type=codes.PRIOR_STUDY
        )
    return TimePointContext(
        time_point="Follow-up",
        time_point_order=max(2, len(context.follow_up.time_points)),
        temporal_offset_from_event=offset,
    )


def _algorithm(context: OutputContext) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        name=version.NAME,
        version=version.VERSION,
        parameters=[
            f"model {context.model.name} {context.model.version}",
            f"sha256 {context.model.sha256}",
        ],
    )


def _sites(region: Region) -> list[FindingSite]:
    return [
        FindingSite(
            codes.REGION_SITES[region], topographical_modifier=codes.REGION_MODIFIERS[region]
        )
    ]


def _millilitres(name: Code, value: float, **details: object) -> Measurement:
    return Measurement(name=name, value=round(value, 6), unit=codes.MILLILITRE, **details)


def _count(name: Code, value: int) -> Measurement:
    return Measurement(name=name, value=value, unit=codes.ONE)


def _text(name: Code, value: str, context: OutputContext) -> TextContentItem:
    return TextContentItem(
        name=name, value=context.text(value), relationship_type=RelationshipTypeValues.CONTAINS
    )


def _tracking(lesion: Lesion, context: OutputContext) -> TrackingIdentifier:
    return TrackingIdentifier(uid=lesion.tracking_uid, identifier=context.text(lesion.tracking_id))


def _interval(low: Code, high: Code, interval: tuple[float, float] | None) -> list[Measurement]:
    if interval is None:
        return []
    return [_millilitres(low, interval[0]), _millilitres(high, interval[1])]


def _earlier(
    name: Code, volumes_ml: Mapping[str, float | None], context: OutputContext
) -> list[Measurement]:
    """Volumes in the studies before the prior one, newest first, each with an image of its study.

    Parameters
    ----------
    name
        What is measured.
    volumes_ml
        By Study Instance UID; None where that study does not show the place.
    context
        The run to write.
    """
    found = []
    for study in context.earlier:
        volume = volumes_ml.get(study.study.study_uid)
        if volume is None:
            continue
        image = study.series["flair"].headers[0]
        source = SourceImageForMeasurement(image.SOPClassUID, image.SOPInstanceUID)
        found.append(_millilitres(name, volume, referenced_images=[source]))
    return found


def _further(lesion: Lesion, context: OutputContext) -> list[Measurement]:
    """What every lesion may have beyond its volumes: intervals, confidence, distances, history."""
    measurements = [
        *_interval(codes.VOLUME_LOW, codes.VOLUME_HIGH, lesion.volume_interval_ml),
        *_interval(
            codes.PRIOR_VOLUME_LOW, codes.PRIOR_VOLUME_HIGH, lesion.prior_volume_interval_ml
        ),
    ]
    if lesion.change_confidence is not None:
        measurements.append(
            Measurement(
                name=codes.CHANGE_CONFIDENCE,
                value=round(lesion.change_confidence, 4),
                unit=codes.ONE,
            )
        )
    for name, distance in (
        (codes.VENTRICLE_DISTANCE, lesion.distance_to_ventricle_mm),
        (codes.CORTEX_DISTANCE, lesion.distance_to_cortex_mm),
    ):
        if distance is not None:
            measurements.append(
                Measurement(name=name, value=round(distance, 3), unit=codes.MILLIMETRE)
            )
    points = context.follow_up.time_points
    if len(points) == len(lesion.volumes_ml):
        over_time = {
            point.study_uid: volume for point, volume in zip(points, lesion.volumes_ml, strict=True)
        }
        measurements += _earlier(codes.EARLIER_VOLUME, over_time, context)
    return measurements


def _evaluations(lesion: Lesion) -> list[QualitativeEvaluation]:
    found = [QualitativeEvaluation(codes.CHANGE, codes.CHANGE_CODES[lesion.change])]
    if lesion.change_since_first is not None:
        first = codes.CHANGE_CODES[lesion.change_since_first]
        found.append(QualitativeEvaluation(codes.CHANGE_SINCE_FIRST, first))
    if lesion.found_by == "comparison":
        found.append(QualitativeEvaluation(codes.FOUND_BY, codes.COMPARISON))
    return found


def _with_lineage(group: Any, lesion: Lesion, context: OutputContext) -> Any:
    group[0].ContentSequence.extend([_text(codes.LINEAGE, uid, context) for uid in lesion.lineage])
    return group


def _present(lesion: Lesion, context: OutputContext, segmentation: Dataset) -> Any:
    measurements = [
        _millilitres(codes.VOLUME, lesion.volume_ml),
        Measurement(
            name=codes.DIAMETER,
            value=round(lesion.diameter_mm, 4),
            unit=codes.MILLIMETRE,
            derivation=codes.MAXIMUM,
            method=codes.VOXEL_CENTRES,
        ),
        Measurement(
            name=codes.LESION_PROBABILITY, value=round(lesion.confidence, 4), unit=codes.ONE
        ),
    ]
    if lesion.prior_volume_ml is not None:
        measurements.append(_millilitres(codes.PRIOR_VOLUME, lesion.prior_volume_ml))
    measurements += _further(lesion, context)
    group = VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(lesion, context),
        referenced_segment=ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=lesion.segment_number,
            source_series=SourceSeriesForSegmentation(context.flair.series.series_uid),
        ),
        time_point_context=_time_point(context),
        finding_type=codes.LESION_OF_BRAIN,
        finding_category=codes.MORPHOLOGICALLY_ABNORMAL,
        algorithm_id=_algorithm(context),
        finding_sites=_sites(lesion.region),
        measurements=measurements,
        qualitative_evaluations=_evaluations(lesion),
    )
    return _with_lineage(_with_centre(group, lesion, segmentation), lesion, context)


def _with_centre(group: Any, lesion: Lesion, segmentation: Dataset) -> Any:
    """The group with the lesion's centre of mass, by which a later run knows the lesion again where
    it has this report but not the segmentation."""
    centre = Scoord3DContentItem(
        name=codes.CENTRE_OF_MASS,
        graphic_type=GraphicTypeValues3D.POINT,
        graphic_data=np.array([lesion.centroid_lps_mm], dtype=float),
        frame_of_reference_uid=segmentation.FrameOfReferenceUID,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    group[0].ContentSequence.append(centre)
    return group


def _resolved(lesion: Lesion, context: OutputContext, segmentation: Dataset) -> Any:
    where = CoordinatesForMeasurement3D(
        graphic_type=GraphicTypeValues3D.POINT,
        graphic_data=np.array([lesion.centroid_lps_mm], dtype=float),
        frame_of_reference_uid=segmentation.FrameOfReferenceUID,
    )
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(lesion, context),
        time_point_context=_time_point(context),
        finding_type=codes.LESION_OF_BRAIN,
        finding_category=codes.MORPHOLOGICALLY_ABNORMAL,
        algorithm_id=_algorithm(context),
        finding_sites=_sites(lesion.region),
        measurements=[
            _millilitres(codes.VOLUME, lesion.volume_ml),
            _millilitres(
                codes.PRIOR_VOLUME, lesion.prior_volume_ml or 0.0, referenced_coordinates=[where]
            ),
            Measurement(
                name=codes.PRIOR_DIAMETER,
                value=round(lesion.diameter_mm, 4),
                unit=codes.MILLIMETRE,
                method=codes.VOXEL_CENTRES,
            ),
            Measurement(
                name=codes.LESION_PROBABILITY, value=round(lesion.confidence, 4), unit=codes.ONE
            ),
            *_further(lesion, context),
        ],
        qualitative_evaluations=_evaluations(lesion),
    )
    return _with_lineage(group, lesion, context)


def _totals(context: OutputContext) -> Any:
    totals = context.follow_up.totals
    measurements = [
        _count(codes.NUMBER_OF_LESIONS, totals.lesion_count),
        _millilitres(codes.VOLUME, totals.lesion_volume_ml, derivation=codes.TOTAL),
    ]
    compared = totals.prior_lesion_volume_ml is not None
    if totals.prior_lesion_volume_ml is not None:
        measurements += [
            _millilitres(codes.PRIOR_TOTAL_VOLUME, totals.prior_lesion_volume_ml),
            _count(codes.NEW_COUNT, totals.new_count),
            _count(codes.ENLARGING_COUNT, totals.enlarging_count),
            _count(codes.SHRINKING_COUNT, totals.shrinking_count),
            _count(codes.RESOLVED_COUNT, totals.resolved_count),
        ]
    measurements += [
        *_interval(codes.VOLUME_LOW, codes.VOLUME_HIGH, totals.lesion_volume_interval_ml),
        *_interval(
            codes.PRIOR_VOLUME_LOW,
            codes.PRIOR_VOLUME_HIGH,
            totals.prior_lesion_volume_interval_ml,
        ),
        *_earlier(
            codes.EARLIER_TOTAL_VOLUME,
            {point.study_uid: point.lesion_volume_ml for point in context.follow_up.time_points},
            context,
        ),
    ]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=context.uid("report", "totals"), identifier=TOTALS_IDENTIFIER
        ),
        time_point_context=_time_point(context),
        finding_type=codes.LESION_OF_BRAIN,
        finding_category=codes.MORPHOLOGICALLY_ABNORMAL,
        algorithm_id=_algorithm(context),
        finding_sites=[FindingSite(codes.BRAIN)],
        measurements=measurements,
    )
    texts = [
        _text(codes.INTENDED_USE, version.STATEMENT, context),
        _text(codes.MODEL, _model_text(context), context),
    ]
    if totals.lesion_count == 0:
        texts.append(_text(codes.COMMENT, NO_LESION, context))
    if not compared:
        texts.append(_text(codes.COMMENT, NOT_COMPARED, context))
    texts += [
        _text(codes.QUALITY_NOTE, f"{note.severity}: {note.message} ({note.code})", context)
        for note in context.follow_up.quality
    ]
    group[0].ContentSequence.extend(texts)
    return group


def _model_text(context: OutputContext) -> str:
    model = context.model
    return (
        f"{model.name} {model.version}, sha256 {model.sha256}, engine {model.engine}, "
        f"precision {model.precision}, threshold "
        f"{context.follow_up.probabilities.current.threshold:g}"
    )
