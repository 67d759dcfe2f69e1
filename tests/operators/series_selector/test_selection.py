"""Current and prior study, the errors, and the message that goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset

from operators.errors import InputError
from operators.messages import (
    InstanceRef,
    QualityNote,
    SelectedStudies,
    SeriesAttributes,
    SeriesProblem,
    Study,
    StudyCollection,
)
from operators.series_selector.selection import select_studies, with_timing
from operators.series_selector.settings import SeriesSelectorSettings
from operators.version import NAME
from tests.operators.series_selector.studies import (
    FLAIR_2D,
    FLAIR_3D,
    T1_3D,
    T2_2D,
    make_series,
    make_study,
    read_nothing,
)

TODAY = date(2025, 1, 1)
NEW, OLD, OLDER = date(2024, 5, 6), date(2023, 5, 1), date(2022, 4, 3)
COMPLETE = (FLAIR_2D, T2_2D, T1_3D)
LUMBAR = SeriesAttributes("MR", series_number=2, series_description="T2 TSE sag LWS")


def run(rules: SeriesSelectorSettings, *studies: Study, **changes: Any) -> SelectedStudies:
    settings = rules.model_copy(update=changes)
    return select_studies(StudyCollection(studies, {}), settings, read_nothing, TODAY)


def codes(selected: SelectedStudies) -> list[str]:
    return [note.code for note in selected.quality]


def test_current_and_prior_by_date(rules: SeriesSelectorSettings) -> None:
    old, new = make_study("1.1", *COMPLETE, day=OLD), make_study("1.2", *COMPLETE, day=NEW)
    for studies in ((old, new), (new, old)):
        selected = run(rules, *studies)
        assert selected.prior is not None
        assert (selected.current.study.study_uid, selected.prior.study.study_uid) == ("1.2", "1.1")
        assert selected.current.interval_days == 0
        assert selected.prior.interval_days == 371
        assert list(selected.current.series) == ["flair", "t2", "t1"]
        assert selected.quality == ()


def test_the_selected_series_carry_their_own_pixels(rules: SeriesSelectorSettings) -> None:
    selected = run(rules, make_study("1.1", *COMPLETE, LUMBAR))
    for series in selected.current.series.values():
        assert series.volume.array[0, 0, 0] == series.series.attributes.series_number
        assert series.headers[0].SeriesInstanceUID == series.series.series_uid
        assert series.reason
    assert [item.series.attributes.series_number for item in selected.current.rejected] == [2]


def test_pixels_are_read_only_for_what_is_selected(rules: SeriesSelectorSettings) -> None:
    read = []

    def reader(series: Any) -> Any:
        read.append(series.attributes.series_number)
        return read_nothing(series)

    study = make_study("1.1", *COMPLETE, FLAIR_3D, LUMBAR)
    select_studies(StudyCollection((study,), {}), rules, reader, TODAY)
    assert sorted(read) == [5, 6, 7]


def test_earlier_notes_and_timing_are_passed_on(rules: SeriesSelectorSettings) -> None:
    note = QualityNote("duplicates", "info", "Two files were duplicates.")
    collection = StudyCollection(
        (make_study("1.1", *COMPLETE),), {}, quality=(note,), timing_s={"dicom_loader": 0.5}
    )
    selected = with_timing(
        select_studies(collection, rules, read_nothing, TODAY), "series_selector", 1.25
    )
    assert selected.quality[0] is note
    assert selected.timing_s == {"dicom_loader": 0.5, "series_selector": 1.25}


def test_without_t1_the_run_goes_on(rules: SeriesSelectorSettings) -> None:
    selected = run(rules, make_study("1.1", FLAIR_2D, T2_2D))
    assert list(selected.current.series) == ["flair", "t2"]


def test_a_date_one_day_ahead_may_be_a_time_zone(rules: SeriesSelectorSettings) -> None:
    assert run(rules, make_study("1.1", *COMPLETE, day=date(2025, 1, 2))).prior is None


def test_one_undated_study_is_fine(rules: SeriesSelectorSettings) -> None:
    selected = run(rules, make_study("1.1", *COMPLETE, day=None, time=None))
    assert selected.current.interval_days is None
    assert selected.prior is None


YEARS = {f"1.{n}": date(2015 + n, 3, 1) for n in range(1, 8)}


@pytest.mark.parametrize("order", [1, -1, 3])
def test_every_earlier_study_is_used_whatever_their_order(
    rules: SeriesSelectorSettings, order: int
) -> None:
    studies = [make_study(uid, *COMPLETE, day=day) for uid, day in YEARS.items()]
    mixed = studies[::order] if abs(order) == 1 else [*studies[2:], *studies[:2]]
    selected = run(rules, *mixed)
    assert selected.current.study.study_uid == "1.7"
    assert selected.prior is not None
    assert selected.prior.study.study_uid == "1.6"
    assert [one.study.study_uid for one in selected.earlier] == ["1.5", "1.4", "1.3", "1.2", "1.1"]
    assert [one.interval_days for one in selected.earlier][-1] == (YEARS["1.7"] - YEARS["1.1"]).days
    assert selected.quality == ()


def test_beyond_the_limit_the_newest_and_the_first_are_used_with_a_note(
    rules: SeriesSelectorSettings,
) -> None:
    studies = [make_study(uid, *COMPLETE, day=day) for uid, day in YEARS.items()]
    selected = run(rules, *studies, maximum_earlier_studies=3)
    assert selected.prior is not None
    kept = [selected.prior, *selected.earlier]
    assert [one.study.study_uid for one in kept] == ["1.6", "1.5", "1.1"]
    assert [(n.code, n.severity) for n in selected.quality] == [
        ("older_studies_not_used", "warning")
    ]
    assert "each of 3 studies" in selected.quality[0].message
    only = run(rules, *studies, maximum_earlier_studies=1)
    assert only.earlier == ()
    assert codes(only) == ["older_studies_not_used"]


def test_an_unusable_study_among_many_is_named_and_passed_over(
    rules: SeriesSelectorSettings,
) -> None:
    studies = [make_study(uid, *COMPLETE, day=day) for uid, day in YEARS.items()]
    studies[3] = make_study("1.4", FLAIR_2D, day=YEARS["1.4"])
    selected = run(rules, *studies)
    assert "1.4" not in [one.study.study_uid for one in selected.earlier]
    assert len(selected.earlier) == 4
    assert codes(selected) == ["prior_unusable"]
    assert "1.4" in selected.quality[0].message


def test_earlier_studies_of_one_day_are_noted_and_ordered_alike(
    rules: SeriesSelectorSettings,
) -> None:
    twins = [make_study(uid, *COMPLETE, day=OLD) for uid in ("1.2", "1.1")]
    new = make_study("1.3", *COMPLETE, day=NEW)
    first, second = run(rules, *twins, new), run(rules, new, *reversed(twins))
    for selected in (first, second):
        assert selected.prior is not None
        assert selected.prior.study.study_uid == "1.2"
        assert [one.study.study_uid for one in selected.earlier] == ["1.1"]
        assert codes(selected) == ["earlier_studies_of_one_day"]


def test_a_forced_prior_is_the_only_one(rules: SeriesSelectorSettings) -> None:
    studies = [make_study(uid, *COMPLETE, day=day) for uid, day in YEARS.items()]
    selected = run(rules, *studies, prior_study_uid="1.2")
    assert selected.prior is not None
    assert selected.prior.study.study_uid == "1.2"
    assert selected.earlier == ()
    assert codes(selected) == ["other_studies_not_used"]
    assert "each of 5 studies" in selected.quality[0].message


def test_an_unusable_prior_is_passed_over_with_a_warning(rules: SeriesSelectorSettings) -> None:
    gap = make_series(FLAIR_2D, problems=(SeriesProblem("missing_slice", "slice 7 missing", True),))
    broken = make_study("1.2", series=(gap, make_series(T2_2D)), day=OLD)
    new = make_study("1.3", *COMPLETE, day=NEW)
    selected = run(rules, broken, new)
    assert selected.prior is None
    assert [(note.code, note.severity) for note in selected.quality] == [
        ("prior_unusable", "warning")
    ]
    assert "slice 7 missing" in selected.quality[0].message
    older = make_study("1.1", *COMPLETE, day=OLDER)
    selected = run(rules, older, broken, new)
    assert selected.prior is not None
    assert selected.prior.study.study_uid == "1.1"
    assert codes(selected) == ["prior_unusable"]


def test_a_prior_without_t2_is_not_compared_with(rules: SeriesSelectorSettings) -> None:
    selected = run(
        rules, make_study("1.1", FLAIR_2D, day=OLD), make_study("1.2", *COMPLETE, day=NEW)
    )
    assert selected.prior is None
    assert "no usable t2 series" in selected.quality[0].message


def test_a_spine_study_of_the_same_day_is_left_aside(rules: SeriesSelectorSettings) -> None:
    brain = make_study("1.1", *COMPLETE, time="101500")
    spine = make_study("1.2", LUMBAR, time="110000")
    selected = run(rules, brain, spine)
    assert selected.current.study.study_uid == "1.1"
    assert codes(selected) == ["study_not_used"]


@pytest.mark.parametrize(
    ("first", "second"), [("083000", "101500"), ("0830", "101500.5"), ("08:30:00", "10:15:00")]
)
def test_studies_of_one_day_are_ordered_by_time(
    rules: SeriesSelectorSettings, first: str, second: str
) -> None:
    studies = [
        make_study("1.1", *COMPLETE, time=second),
        make_study("1.2", *COMPLETE, time=first),
    ]
    selected = run(rules, *studies)
    assert selected.prior is not None
    assert (selected.current.study.study_uid, selected.prior.study.study_uid) == ("1.1", "1.2")
    assert selected.prior.interval_days == 0
    assert codes(selected) == ["prior_of_same_day"]


def test_ct_and_reports_are_no_time_point(rules: SeriesSelectorSettings) -> None:
    ct = make_study("1.1", SeriesAttributes("CT", series_number=1), day=date(2024, 6, 1))
    selected = run(rules, ct, make_study("1.2", *COMPLETE, day=NEW))
    assert selected.current.study.study_uid == "1.2"


def test_forced_studies(rules: SeriesSelectorSettings) -> None:
    days = {"1.1": OLDER, "1.2": OLD, "1.3": NEW}
    studies = [make_study(uid, *COMPLETE, day=day) for uid, day in days.items()]
    selected = run(rules, *studies, prior_study_uid="1.1")
    assert selected.prior is not None
    assert (selected.current.study.study_uid, selected.prior.study.study_uid) == ("1.3", "1.1")
    assert codes(selected) == ["other_studies_not_used"]
    selected = run(rules, *studies, current_study_uid="1.2")
    assert selected.prior is not None
    assert (selected.current.study.study_uid, selected.prior.study.study_uid) == ("1.2", "1.1")
    assert codes(selected) == ["later_studies_not_used"]
    selected = run(rules, *studies, use_prior=False)
    assert selected.prior is None
    assert codes(selected) == ["prior_switched_off"]


def test_forced_studies_may_be_undated(rules: SeriesSelectorSettings) -> None:
    studies = [make_study(uid, *COMPLETE, day=None) for uid in ("1.1", "1.2")]
    selected = run(rules, *studies, current_study_uid="1.2", prior_study_uid="1.1")
    assert selected.prior is not None
    assert selected.prior.interval_days is None


GAP = make_series(FLAIR_2D, problems=(SeriesProblem("missing_slices", "slice 7 is missing", True),))
POST_T1 = replace(T1_3D, series_description="t1_mprage_sag_KM")
TWIN = make_series(FLAIR_2D, stack="b", series_uid="1.1.4")


@pytest.mark.parametrize(
    ("studies", "changes", "message"),
    [
        ([], {}, "no MR image series"),
        ([make_study("1.1", SeriesAttributes("CT", series_number=1))], {}, "no MR image series"),
        ([make_study("1.1", T2_2D, T1_3D)], {}, "no usable flair series"),
        ([make_study("1.1", FLAIR_2D, T1_3D)], {}, "no usable t2 series"),
        (
            [make_study("1.1", FLAIR_2D, T2_2D, POST_T1)],
            {"required_roles": ("flair", "t2", "t1"), "optional_roles": ()},
            "no usable t1 series (series 7 was refused for contrast_agent: it was acquired after",
        ),
        (
            [make_study("1.1", series=(make_series(FLAIR_2D), TWIN, make_series(T2_2D)))],
            {},
            "flair series is ambiguous",
        ),
        (
            [make_study("1.1", *COMPLETE, patient="a"), make_study("1.2", patient="b")],
            {},
            "studies of 2 patients",
        ),
        ([make_study("1.1", *COMPLETE, day=date(2025, 1, 3))], {}, "in the future"),
        (
            [make_study("1.1", *COMPLETE, day=None), make_study("1.2", *COMPLETE)],
            {},
            "has no study date",
        ),
        (
            [make_study("1.1", *COMPLETE, day=OLD), make_study("1.2", T1_3D, day=NEW)],
            {},
            "newest study has no usable flair series. One study before it cannot take its place",
        ),
        (
            [make_study("1.1", series=(GAP, make_series(T2_2D)))],
            {},
            "no usable flair series (series 4 was refused for missing_slices: slice 7 is missing)",
        ),
        (
            [make_study("1.1", *COMPLETE), make_study("1.2", *COMPLETE)],
            {},
            "same date and time",
        ),
        ([make_study("1.1", *COMPLETE)], {"current_study_uid": "9.9"}, "9.9 is not in the input"),
        (
            [make_study("1.1", *COMPLETE, day=OLD), make_study("1.2", *COMPLETE, day=NEW)],
            {"current_study_uid": "1.1", "prior_study_uid": "1.2"},
            "1.2 is not before the current study",
        ),
        (
            [make_study("1.1", T1_3D, day=OLD), make_study("1.2", *COMPLETE, day=NEW)],
            {"prior_study_uid": "1.1"},
            "study 1.1: It has no usable flair and no usable t2 series",
        ),
    ],
)
def test_bad_input(
    rules: SeriesSelectorSettings,
    studies: list[Study],
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InputError) as caught:
        run(rules, *studies, **changes)
    assert message in str(caught.value)
    assert caught.value.remedy
    for day in (OLD, NEW, TODAY):
        assert day.isoformat() not in str(caught.value)
        assert day.strftime("%Y%m%d") not in str(caught.value)


def test_the_error_shows_what_was_found(rules: SeriesSelectorSettings) -> None:
    with pytest.raises(InputError) as caught:
        run(rules, make_study("1.1", T2_2D, POST_T1, LUMBAR))
    table = str(caught.value).split("Found:\n")[1].splitlines()
    assert table[0].split() == ["study", "series", "description", "slices", "role", "result"]
    assert table[1].startswith("1      2       T2 TSE sag LWS")
    assert "other_region: it shows another part of the body" in table[1]
    assert "t2    usable: spin echo with long" in table[2]
    assert "t1    contrast_agent: it was acquired after contrast agent" in table[3]


def test_contrast_in_the_flair_is_noted(rules: SeriesSelectorSettings) -> None:
    study = make_study("1.1", replace(FLAIR_2D, contrast_agent="Gadovist"), T2_2D)
    assert codes(run(rules, study)) == ["contrast_agent"]


def test_a_role_by_description_and_a_minor_problem_are_noted(
    rules: SeriesSelectorSettings,
) -> None:
    bare = SeriesAttributes(
        "MR",
        series_number=3,
        series_description="FLAIR tværsnit",
        slice_count=40,
        spacing_mm=(0.9, 0.8, 3.3),
        coverage_mm=132.0,
    )
    series = make_series(bare, problems=(SeriesProblem("no_position", "assumed", False),))
    selected = run(rules, make_study("1.1", series=(series, make_series(T2_2D))))
    assert codes(selected) == ["role_by_description", "no_position"]


def test_a_role_in_only_one_study_is_noted(rules: SeriesSelectorSettings) -> None:
    selected = run(
        rules,
        make_study("1.1", FLAIR_2D, T2_2D, day=OLD),
        make_study("1.2", *COMPLETE, day=NEW),
    )
    assert codes(selected) == ["roles_differ"]


def test_an_unreadable_series_is_an_error_not_a_fallback(rules: SeriesSelectorSettings) -> None:
    def reader(series: Any) -> Any:
        raise InputError(series.label, "Its pixels are all zero.", "Send it again.")

    with pytest.raises(InputError, match="series 4: Its pixels are all zero"):
        select_studies(StudyCollection((make_study("1.1", *COMPLETE),), {}), rules, reader, TODAY)


def write_segmentation(path: Path, model: str, made: str) -> InstanceRef:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SegmentationStorage
    meta.MediaStorageSOPInstanceUID = f"1.9.{made}"
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID = meta.MediaStorageSOPClassUID
    header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    header.ManufacturerModelName = model
    header.ContentDate = "20230502"
    header.ContentTime = made
    header.save_as(path)
    return InstanceRef(path, header.SOPInstanceUID, header.SOPClassUID)


def test_results_of_this_application_are_found_in_each_study_newest_first(
    rules: SeriesSelectorSettings, tmp_path: Path
) -> None:
    first = write_segmentation(tmp_path / "a.dcm", NAME, "090000")
    second = write_segmentation(tmp_path / "b.dcm", NAME, "100000")
    report = write_segmentation(tmp_path / "r.dcm", NAME, "093000")
    foreign = write_segmentation(tmp_path / "c.dcm", "Another tool", "110000")
    older = write_segmentation(tmp_path / "d.dcm", NAME, "120000")
    current = write_segmentation(tmp_path / "e.dcm", NAME, "130000")
    alone = write_segmentation(tmp_path / "f.dcm", NAME, "140000")
    studies = (
        make_study("1.3", *COMPLETE, day=NEW, segmentations=(current,)),
        replace(
            make_study("1.2", *COMPLETE, day=OLD, segmentations=(first, foreign, second)),
            structured_reports=(report,),
        ),
        make_study("1.1", *COMPLETE, day=OLDER, segmentations=(older,)),
        make_study("1.0", series=(), day=OLDER, segmentations=(alone,)),
    )
    selected = run(rules, *studies)
    assert selected.prior is not None
    assert selected.current.lesion_objects == (current,)
    assert selected.prior.lesion_objects == (second, report, first)
    assert selected.prior_segmentations == (second, first)
    assert [one.lesion_objects for one in selected.earlier] == [(older,)]
    assert codes(selected) == ["foreign_segmentation", "lesion_objects_without_study"]
    assert run(rules, *studies, use_prior=False).prior_segmentations == ()
    (tmp_path / "b.dcm").write_bytes(b"not DICOM")
    damaged = run(rules, *studies)
    assert damaged.prior is not None
    assert damaged.prior.lesion_objects == (report, first)
    assert "lesion_object_unreadable" in codes(damaged)
