"""The report: what a reader finds in it, in every language, however much there is to say."""

from __future__ import annotations

import copy
import logging
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.config import load_settings
from operators.dicom_writer.common import OutputContext
from operators.dicom_writer.report import MOST_EXAMPLES, MOST_SERIOUS_NOTES, write_report
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.dicom_writer.texts import texts
from operators.messages import FollowUp, Lesion, QualityNote
from operators.version import NAME, STATEMENT, VERSION
from tests.conftest import ROOT
from tests.operators.followup_example import LESIONS, MODEL, make_follow_up

CREATED = datetime(2024, 6, 13, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Pdf:
    pages: list[str]
    """The text of each page, lines joined by single spaces."""
    path: Path

    @property
    def text(self) -> str:
        return " ".join(self.pages)


@pytest.fixture(scope="module")
def read(need_tool: Callable[[str], str]) -> Callable[..., Pdf]:
    """Write a report and read it back with poppler."""
    pdftotext = need_tool("pdftotext")

    def write_and_read(follow_up: FollowUp, folder: Path, language: str = "en") -> Pdf:
        path = folder / "report.pdf"
        settings = DICOMWriterSettings(language=language)
        write_report(path, OutputContext(follow_up, settings, created=CREATED, seed="test"))
        done = subprocess.run(
            [pdftotext, "-layout", "-enc", "UTF-8", str(path), "-"],
            capture_output=True,
            check=True,
        )
        pages = done.stdout.decode("utf-8").split("\f")[:-1]
        return Pdf([" ".join(page.split()) for page in pages], path)

    return write_and_read


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("follow_up"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    """Two studies before the prior one."""
    return make_follow_up(tmp_path_factory.mktemp("several"), earlier=2)


@pytest.fixture(scope="module")
def report(
    follow_up: FollowUp,
    read: Callable[..., Pdf],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pdf:
    return read(follow_up, tmp_path_factory.mktemp("report"))


def _with_header(follow_up: FollowUp, **values: str) -> FollowUp:
    """The same result of a patient or study with other attributes."""
    aligned = follow_up.probabilities.aligned
    flair = aligned.selected.current.series["flair"]
    headers = []
    for header in flair.headers:
        changed = copy.copy(header)
        for keyword, value in values.items():
            setattr(changed, keyword, value)
        headers.append(changed)
    flair = replace(flair, headers=tuple(headers))
    current = replace(
        aligned.selected.current, series={**aligned.selected.current.series, "flair": flair}
    )
    aligned = replace(
        aligned,
        selected=replace(aligned.selected, current=current),
        current=replace(aligned.current, selected=current),
    )
    return replace(follow_up, probabilities=replace(follow_up.probabilities, aligned=aligned))


def _refused(follow_up: FollowUp) -> FollowUp:
    """The same studies, but the prior could not be registered."""
    aligned = follow_up.probabilities.aligned
    registration = aligned.prior_to_current
    assert registration is not None
    aligned = replace(
        aligned, prior_to_current=replace(registration, accepted=False, similarity=1.021)
    )
    lesions = tuple(
        replace(lesion, change="baseline", prior_volume_ml=None)
        for lesion in follow_up.lesions
        if lesion.segment_number is not None
    )
    totals = replace(
        follow_up.totals,
        prior_lesion_volume_ml=None,
        new_count=0,
        enlarging_count=0,
        shrinking_count=0,
        resolved_count=0,
    )
    note = QualityNote("registration_refused", "error", "The prior FLAIR does not fit.")
    return replace(
        follow_up,
        probabilities=replace(follow_up.probabilities, aligned=aligned, prior=None),
        lesions=lesions,
        totals=totals,
        prior_labels=None,
        quality=(*follow_up.quality, note),
    )


def test_the_first_page_says_who_and_what_changed(report: Pdf) -> None:
    first = report.pages[0]
    for text in (
        "Sørensen, Åse", "EXAMPLE-0107", "1981-03-14", "2024-06-12", "A24-0612",
        "MR cerebrum, MS-kontrol", "2023-05-30 (379 days before)",
    ):  # fmt: skip
        assert text in first
    assert "Lesion load now" in first
    assert "Lesion load before" in first
    assert "2 new, 1 enlarging, 1 resolved, 1 shrinking, 1 merged, 1 split, 1 stable" in first
    assert "Warning. The prior FLAIR was made with another voxel size." in first
    assert first.index("What changed") < first.index("Warning.") < first.index("Volumes over time")


def test_lesion_load_now_and_before_are_the_totals(follow_up: FollowUp, report: Pdf) -> None:
    totals = follow_up.totals
    assert totals.prior_lesion_volume_ml is not None
    difference = totals.lesion_volume_ml - totals.prior_lesion_volume_ml
    sign = "+" if difference > 0 else "−"
    percent = abs(100 * difference / totals.prior_lesion_volume_ml)
    assert (
        f"Lesion load {totals.lesion_volume_ml:.2f} ml, before "
        f"{totals.prior_lesion_volume_ml:.2f} ml ({sign}{abs(difference):.2f} ml, "
        f"{sign}{percent:.0f} %)"
    ) in report.pages[0]


def test_every_lesion_is_in_the_table_changed_ones_first(follow_up: FollowUp, report: Pdf) -> None:
    words = {
        "new": "New", "enlarging": "Enlarging", "resolved": "Resolved", "shrinking": "Shrinking",
        "merged": "Merged", "split": "Split", "stable": "Stable",
    }  # fmt: skip
    regions = {
        "periventricular": "Periventricular", "juxtacortical": "Juxtacortical",
        "infratentorial": "Infratentorial", "deep_white_matter": "Deep white matter",
        "unspecified": "Not specified",
    }  # fmt: skip
    places = []
    for lesion in follow_up.lesions:
        name = "r1" if lesion.segment_number is None else str(lesion.segment_number)
        before = lesion.prior_volume_ml or 0.0
        difference = lesion.volume_ml - before
        sign = "" if round(difference, 3) == 0 else "+" if difference > 0 else "−"
        percent = "–"
        if before > 0:
            share = 100 * difference / before
            percent = f"{'' if round(share) == 0 else sign}{abs(share):.0f}"
        interval = "–"
        if lesion.segment_number is not None and lesion.volume_interval_ml is not None:
            interval = "–".join(f"{value:.3f}" for value in lesion.volume_interval_ml)
        row = (
            f"{name} {lesion.tracking_id.split()[-1]} {words[lesion.change]} "
            f"{regions[lesion.region]} {lesion.volume_ml:.3f} "
            f"{interval} {before:.3f} {sign}{abs(difference):.3f} {percent} "
            f"{lesion.change_confidence:.2f} {lesion.diameter_mm:.1f} {lesion.confidence:.2f}"
        )
        assert row in report.text
        places.append((row, report.text.index(row)))
    order = [row.split()[2] for row, _ in sorted(places, key=lambda item: item[1])]
    assert order == [
        "New",
        "New",
        "Enlarging",
        "Resolved",
        "Shrinking",
        "Merged",
        "Split",
        "Stable",
    ]


def test_the_first_page_says_how_sure_the_loads_are(follow_up: FollowUp, report: Pdf) -> None:
    totals = follow_up.totals
    for interval in (totals.lesion_volume_interval_ml, totals.prior_lesion_volume_interval_ml):
        assert interval is not None
        assert f"95 %: {interval[0]:.2f}–{interval[1]:.2f} ml" in report.pages[0]
    assert "Noise floor: " in report.pages[0]


def test_dissemination_in_space_and_time_is_on_the_first_page(
    several: FollowUp, report: Pdf, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    first = report.pages[0]
    for region in ("periventricular", "juxtacortical", "infratentorial", "deep_white_matter"):
        here = [one for one in several.lesions if one.region == region and one.segment_number]
        name = str(texts()["region"][region])
        new = sum(one.change == "new" for one in here)
        load = sum(one.volume_ml for one in here)
        # the text of the plot beside it may stand before the name
        assert f"{name} {len(here)} {new} {load:.2f}" in first
    for place in ("Spinal cord", "Optic nerve"):
        assert f"{place} not examined" in first
    assert "New T2 lesions since 2023-05-30 (379 days): 2" in first
    assert "3 of the 3 locations" in first
    with_first = read(several, tmp_path)
    assert "since 2020-11-03 (1317 days): 2" in with_first.pages[0]


def test_locations_by_the_atlas_alone_are_said_to_be(
    follow_up: FollowUp, report: Pdf, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    said = "locations follow the atlas alone"
    assert said not in report.pages[0]
    lesions = tuple(replace(one, distance_to_ventricle_mm=None) for one in follow_up.lesions)
    assert said in read(replace(follow_up, lesions=lesions), tmp_path).pages[0]


def test_lesions_have_the_number_that_the_segments_are_named_by(
    several: FollowUp, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    """Beside the segment number, which is another one in every study."""
    lesions = tuple(
        replace(one, tracking_id=f"Lesion {41 + place}")
        for place, one in enumerate(several.lesions)
    )
    pdf = read(replace(several, lesions=lesions), tmp_path)
    for place, lesion in enumerate(lesions):
        name = "r1" if lesion.segment_number is None else str(lesion.segment_number)
        change = str(texts()["change"][lesion.change])
        assert pdf.text.count(f"{name} {41 + place} {change}") == 2
        if lesion.change in ("new", "enlarging", "resolved"):
            assert f"Lesion {41 + place}" in pdf.pages[1]


def test_a_change_that_the_images_hardly_support_is_marked(
    follow_up: FollowUp, report: Pdf, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    assert "Conf. below 0.5" not in report.text
    lesions = tuple(
        replace(one, change_confidence=0.03) if one.change == "stable" else one
        for one in follow_up.lesions
    )
    pdf = read(replace(follow_up, lesions=lesions), tmp_path)
    assert "? Outlines and images of the two studies disagree" in pdf.text
    assert re.findall(r"\d+ \d+ (\w+) \? ", pdf.text) == ["Stable"]


def test_large_volumes_fit_their_columns(
    follow_up: FollowUp, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    lesions = tuple(
        replace(one, volume_ml=123.4567, volume_interval_ml=(98.7654, 151.2345))
        if one.change == "merged"
        else one
        for one in follow_up.lesions
    )
    pdf = read(replace(follow_up, lesions=lesions), tmp_path)
    assert "6 6 Merged Deep white matter 123.457 98.77–151.23 " in pdf.text


def test_volumes_over_time_are_in_a_table_when_there_are_several_studies(
    several: FollowUp, report: Pdf, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    # one that has grown since the first study and is stable now, and one that it did not show
    lesions = tuple(
        replace(one, change_since_first={"stable": "enlarging", "resolved": None}[one.change])
        if one.change in ("stable", "resolved")
        else one
        for one in several.lesions
    )
    pdf = read(replace(several, lesions=lesions), tmp_path)
    assert "2020-11-03 2022-04-21 2023-05-30 2024-06-12 Since first" in pdf.text
    for lesion in lesions:
        row = " ".join(f"{volume:.3f}" for volume in lesion.volumes_ml if volume is not None)
        since = lesion.change_since_first
        assert f"{row} {'–' if since is None else texts()['change'][since]}" in pdf.text
    first, last = several.time_points[0], several.time_points[-1]
    percent = 100 * (last.lesion_volume_ml / first.lesion_volume_ml - 1)
    loads = " ".join(f"{point.lesion_volume_ml:.3f}" for point in several.time_points)
    assert f"{loads} +{percent:.0f} %" in pdf.text
    assert "Since first: since the study of 2020-11-03." in pdf.text
    assert "Volumes over time (ml)" not in report.text


def test_a_lineage_names_the_lesions_by_their_numbers(follow_up: FollowUp, report: Pdf) -> None:
    (merged,) = [one for one in follow_up.lesions if one.change == "merged"]
    assert len(merged.lineage) == 2
    assert re.search(r"6 6 Merged .*? 0\.90 4, r1 ", report.text)


@pytest.mark.parametrize(
    ("language", "rule"),
    [
        ("en", "Enlarging: at least 25 % more volume than in the prior study"),
        ("da", "Voksende: mindst 25 % større volumen end i den tidligere undersøgelse"),
    ],
)
def test_the_limit_of_enlarging_stands_below_the_table(
    follow_up: FollowUp, tmp_path: Path, read: Callable[..., Pdf], language: str, rule: str
) -> None:
    assert read(replace(follow_up, change_ratio=0.25), tmp_path, language).text.count(rule) == 1
    assert rule not in read(replace(follow_up, change_ratio=None), tmp_path, language).text


@pytest.mark.parametrize(
    ("language", "note"),
    [
        ("en", "* Found by the comparison of the images of two studies; the network outlined"),
        ("da", "* Fundet ved sammenligning af to undersøgelsers billeder; netværket optegnede"),
    ],
)
def test_lesions_that_only_the_comparison_found_are_marked(
    several: FollowUp, tmp_path: Path, read: Callable[..., Pdf], language: str, note: str
) -> None:
    """In the close-ups, the table of lesions and that of volumes over time, each with the note."""
    chosen = {"new": "3", "resolved": "r1"}
    lesions = tuple(
        replace(one, found_by="comparison")
        if one.change == "resolved" or one.segment_number == 3
        else one
        for one in several.lesions
    )
    pdf = read(replace(several, lesions=lesions), tmp_path, language)
    assert pdf.text.count(note) == 3
    for change, name in chosen.items():
        word = texts(language)["change"][change]
        number = "8" if name == "r1" else name
        assert pdf.text.count(f"{name}* {word}") == 1
        assert pdf.text.count(f"{name}* {number} {word}") == 2
        assert f" {name} {number} {word}" not in pdf.text
    assert len(re.findall(r"\d\*", pdf.text)) == 2 * 3
    unmarked = read(several, tmp_path, language).text
    assert note not in unmarked
    assert not re.findall(r"\d\*", unmarked)


def test_danish_has_danish_words_and_numbers(
    several: FollowUp, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    pdf = read(several, tmp_path, "da")
    first = pdf.pages[0]
    assert "Opfølgning af MS-læsioner" in first
    assert "2 nye, 1 voksende, 1 forsvundet" in first
    load = f"{several.totals.lesion_volume_ml:.2f}".replace(".", ",")
    assert f"Læsionsvolumen {load} ml" in first
    assert "Rygmarv ikke undersøgt" in first
    assert "Kun til forskningsbrug. Ikke medicinsk udstyr." in first
    # neighbouring columns do not run into each other
    assert "6 6 Sammensmeltet Dyb hvid substans 2," in pdf.text
    assert "Undersøgelse Rolle Serie" in pdf.text
    for page in pdf.pages:
        assert STATEMENT in page
    for english in ("Lesion", "lesions", "Enlarging", "Juxtacortical", "Signature", "What changed"):
        assert english not in pdf.text.replace(NAME, "")


def test_series_model_and_statement_are_named(report: Pdf) -> None:
    assert "long TR, TE and TI" in report.text
    assert "4: t2_tirm_tra_dark-fluid" in report.text
    assert "2.10 × 1.80 × 4.40" in report.text
    assert f"{MODEL.name} {MODEL.version}" in report.text
    assert MODEL.sha256 in report.text
    assert "openvino in bf16, lesion threshold 0.50" in report.text
    assert "The FLAIR has thick slices (4.4 mm)." in report.text
    for number, page in enumerate(report.pages, start=1):
        assert STATEMENT in page
        assert f"{NAME} {VERSION}" in page
        assert f"Page {number} of {len(report.pages)}" in page
    assert "Signature" in report.pages[-1]


def test_later_pages_repeat_the_patient(report: Pdf) -> None:
    assert len(report.pages) == 3
    for page in report.pages[1:]:
        assert "Sørensen, Åse" in page
        assert "EXAMPLE-0107" in page


def test_examples_and_plots_are_pictures(report: Pdf, need_tool: Callable[[str], str]) -> None:
    listing = subprocess.run(
        [need_tool("pdfimages"), "-list", str(report.path)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()[2:]
    # a plot, two whole slices, and three close-ups for each of two new, one enlarging, one resolved
    assert len(listing) == 1 + 2 + 3 * 4


def test_an_inactive_follow_up_says_so(tmp_path: Path, read: Callable[..., Pdf]) -> None:
    stable = [lesion for lesion in LESIONS if lesion.change in ("stable", "shrinking")]
    pdf = read(make_follow_up(tmp_path, lesions=stable), tmp_path)
    assert "no new or enlarging lesion; 1 shrinking, 1 stable." in pdf.pages[0]


@pytest.mark.parametrize("prior", [True, False])
def test_no_lesion_is_a_finding(tmp_path: Path, read: Callable[..., Pdf], prior: bool) -> None:
    pdf = read(make_follow_up(tmp_path, empty=True, prior=prior), tmp_path)
    expected = (
        "No lesion was found, now or in the prior study." if prior else "No lesion was found."
    )
    assert expected in pdf.pages[0]
    assert "Series used" in pdf.text


def test_a_baseline_claims_no_change(tmp_path: Path, read: Callable[..., Pdf]) -> None:
    follow_up = make_follow_up(tmp_path, prior=False)
    pdf = read(follow_up, tmp_path)
    assert "MS lesion report" in pdf.pages[0]
    assert "Baseline: there is no earlier study in the input" in pdf.pages[0]
    assert f"Lesions found: {follow_up.totals.lesion_count}." in pdf.pages[0]
    assert "none in the input" in pdf.pages[0]
    for word in ("Enlarging", "Resolved", "Stable", "Before", "What changed", "Noise floor"):
        assert word not in pdf.text
    assert "No earlier study was compared." in pdf.pages[0]


def test_a_refused_registration_is_shown_first_and_no_change_is_claimed(
    follow_up: FollowUp, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    pdf = read(_refused(follow_up), tmp_path)
    first = pdf.pages[0]
    assert "No comparison was made. The prior study of 2023-05-30 was not compared" in first
    assert "similarity 1.02" in first
    assert "Error. The prior FLAIR does not fit." in first
    assert first.index("No comparison") < first.index("Lesions now")
    for word in ("Enlarging", "Resolved", "Stable", "Before", "What changed"):
        assert word not in pdf.text


def test_letters_of_many_languages(
    follow_up: FollowUp, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    changed = _with_header(
        follow_up,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Щукина-Łukaszewicz^Ærøe Þóra",
        StudyDescription="МРТ головного мозга <b>& æøå</b>",
        StudyDate="",
        PatientBirthDate="",
    )
    pdf = read(changed, tmp_path)
    assert "Щукина-Łukaszewicz, Ærøe Þóra" in pdf.pages[0]
    assert "МРТ головного мозга <b>& æøå</b>" in pdf.pages[0]
    assert "Date of birth not stated" in pdf.pages[0]


def _many(follow_up: FollowUp, count: int) -> tuple[Lesion, ...]:
    return tuple(
        replace(
            follow_up.lesions[number % len(follow_up.lesions)],
            tracking_uid=f"2.25.{number + 1}",
            tracking_id=f"MS lesion {number + 1}",
        )
        for number in range(count)
    )


@pytest.mark.parametrize("count", [60, 500])
def test_many_lesions_and_long_texts(
    follow_up: FollowUp, tmp_path: Path, read: Callable[..., Pdf], count: int
) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung & more; "
    severities = ("error", "warning", "info")
    notes = tuple(
        QualityNote(f"note_{number}", severities[number % 3], long * (count // 15))  # type: ignore[arg-type]
        for number in range(count // 3)
    )
    lesions = _many(follow_up, count)
    changed = _with_header(
        replace(follow_up, lesions=lesions, quality=notes),
        PatientName="A" * 64,
        PatientID="1234567890" * 6,
        StudyDescription="word " * 12,
    )
    pdf = read(changed, tmp_path)
    first = pdf.pages[0]
    assert "Error. Donau" in first
    # whatever there is to say, the first page answers what changed, where and how sure that is
    for text in ("What changed", "Lesion load now", "Dissemination in space", "Noise floor"):
        assert text in first
    rows = re.findall(
        r"(?:\d+|r\d+) (?:New|Enlarging|Resolved|Shrinking|Merged|Split|Stable) "
        r"[A-Z][a-z ]+ \d+\.\d{3} (?:–|\d+\.\d{3}–\d+\.\d{3}) \d",
        pdf.text,
    )
    stated = re.search(r"(\d+) of (\d+) lesions are listed", pdf.text)
    assert (stated is None) == (count == 60)
    assert len(rows) == (count if stated is None else int(stated[1]))
    active = sum(one.change in ("new", "enlarging", "resolved") for one in lesions)
    few = re.search(r"(\d+) of (\d+) new, enlarging and resolved lesions", pdf.text)
    assert (few is None) == (active <= MOST_EXAMPLES)
    assert re.search(r"\d+ more in results\.json", pdf.text)
    assert pdf.path.stat().st_size < 12e6


def test_warnings_that_the_first_page_has_no_room_for_stand_at_the_end(
    follow_up: FollowUp, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    notes = tuple(QualityNote(f"n{n}", "warning", f"Doubt number {n}.") for n in range(7))
    pdf = read(replace(follow_up, quality=notes), tmp_path)
    assert "Remarks of the automatic checks at the end of this report: 3." in pdf.pages[0]
    for n in range(7):
        page = pdf.pages[0 if n < MOST_SERIOUS_NOTES else -1]
        assert f"Warning. Doubt number {n}." in page
    assert "results.json" not in pdf.pages[0]


def test_the_first_page_says_that_there_is_no_doubt_or_where_remarks_stand(
    follow_up: FollowUp, report: Pdf, tmp_path: Path, read: Callable[..., Pdf]
) -> None:
    infos = sum(note.severity == "info" for note in follow_up.quality)
    assert f"at the end of this report: {infos}." in report.pages[0]
    none = read(replace(follow_up, quality=()), tmp_path).pages[0]
    assert "No doubt was raised by the automatic checks." in none
    assert "at the end of this report" not in none


@pytest.mark.parametrize("language", ["en", "da"])
def test_the_rule_for_contact_is_that_of_the_shipped_settings(language: str) -> None:
    shipped = load_settings(ROOT / "app.yaml").longitudinal_comparator
    rule = str(texts(language)["report"]["measurement_text"])
    lengths = {float(one.replace(",", ".")) for one in re.findall(r"([\d.,]+) mm", rule)}
    assert lengths == {shipped.periventricular_mm, shipped.juxtacortical_mm}
    assert re.findall(r"(\d+) %", rule) == [f"{100 * shipped.juxtacortical_share:.0f}"]


def test_nothing_about_the_patient_is_logged(
    follow_up: FollowUp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        write_report(tmp_path / "report.pdf", OutputContext(follow_up, created=CREATED))
    for secret in ("Sørensen", "EXAMPLE-0107", "1981", "2024-06-12", "20240612"):
        assert secret not in caplog.text


def test_nothing_is_drawn_outside_the_margins(
    report: Pdf, need_tool: Callable[[str], str], tmp_path: Path
) -> None:
    boxes = subprocess.run(
        [need_tool("pdftotext"), "-bbox", str(report.path), "-"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    words: Sequence[tuple[str, str]] = re.findall(r'<word xMin="([\d.]+)".*?xMax="([\d.]+)"', boxes)
    assert len(words) > 200
    assert min(float(left) for left, _ in words) >= 45.0
    assert max(float(right) for _, right in words) <= 595.3 - 45.0
