"""What the acceptance report says, and how it is written."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_tools.evaluate.documents import Section, write_html, write_pdf
from model_tools.evaluate.figures import (
    groups_figure,
    left_out_figure,
    sizes_figure,
    volumes_figure,
)
from model_tools.evaluate.limits import Limit
from model_tools.evaluate.report import content
from model_tools.evaluate.summary import summarise_all
from tests.model_tools.evaluate.test_summary import answers

LIMITS = (
    Limit("dice", 0.6, None),
    Limit("recall", 0.5, None, "by_size", "3-30 mm3"),
    Limit("f1", 0.9, None, "by_load", "under 5 ml"),
)


@lru_cache
def sections() -> dict[str, Section]:
    rater = [{**one, "model": "second_rater"} for one in answers() if one["model"] == "a"]
    found = [*answers(), *rater]
    summary = summarise_all(
        found, ["a", "b", "second_rater"], LIMITS, left_out={"B": "b"}, training_sizes={"a": 9}
    )
    summary["made"] = {"Data set": "cases.csv, 5 cases", "Made": "2026-01-02 03:04 UTC"}
    for name in ("a", "b"):
        summary["models"][name].update(package=f"brain_{name} 1.0.0", threshold=0.5)
    summary["models"]["second_rater"]["by_threshold"] = {}
    return {section.title: section for section in content(summary, found)}


def test_the_verdict_stands_first_and_names_each_limit() -> None:
    found = sections()
    assert next(iter(found)) == "Result"
    verdicts = {row[0]: (row[4], row[5]) for row in found["Result"].tables[0][1:]}
    assert verdicts == {
        "a": ("0", "FAIL"),
        "b": ("1", "FAIL"),
        "second_rater": ("0", "not held to them"),
    }
    rows = found["Limits of the site"].tables[0]
    assert rows[0] == ["Limit", "Least", "Most", "a", "", "b", ""]
    assert rows[1] == ["Dice", "0.60", "–", "0.65", "PASS", "0.68", "PASS"]
    assert rows[2][0] == "Lesion-wise recall: size 3-30 mm³"
    assert rows[2][3:5] == ["0.25", "FAIL"]
    assert rows[3][0] == "Lesion-wise F1: load under 5 ml"


def test_a_physicist_can_file_it() -> None:
    made, models, signed = sections()["What was tested"].tables
    assert ["Data set", "cases.csv, 5 cases"] in made
    assert models[1][:2] == ["a", "brain_a 1.0.0"]
    assert models[1][3] == "hash of a"
    assert [row[0] for row in signed[1:]] == ["Performed by", "Accepted for use by"]
    cases = sections()["Each case"].tables[0]
    assert cases[0] == ["Case", "Scanner", "Reference, ml", "a", "b", "second_rater"]
    assert cases[1][:4] == ["c0", "A", "1.0", "0.50 / 0.40 / 1.1"]
    assert ["b", "c9", "no T1"] in sections()["Cases that were not processed"].tables[0]


def test_intervals_stand_beside_shares_and_correlations() -> None:
    rows = {row[0]: row[1] for row in sections()["Metrics"].tables[0]}
    assert rows["Correlation of volumes"] == "1.00 [1.00, 1.00]"
    assert rows["Limits of agreement, ml"].count(" to ") == 1
    sizes = {row[0]: row[1] for row in sections()["Lesions by size"].tables[0]}
    assert sizes["3-30 mm³"] == "0.25 [0.25, 0.25] of 16"
    assert sizes["30-100 mm³"] == "–"


def drawn(picture: bytes, colour: tuple[int, int, int]) -> int:
    """Pixels of about a colour."""
    with Image.open(io.BytesIO(picture)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((abs(pixels - colour).max(axis=-1) < 40).sum())


def test_figures_show_every_model_in_its_colour() -> None:
    scored = {m: [a for a in answers() if a["model"] == m and a["scores"]] for m in ("a", "b")}
    summary = summarise_all(answers(), ["a", "b"], training_sizes={"a": 9, "b": 20})["models"]
    agreements = {name: one["volumes"] for name, one in summary.items()}
    for picture in (
        volumes_figure(scored, agreements),
        groups_figure(scored, "scanner"),
        groups_figure(scored, "load"),
    ):
        assert min(drawn(picture, (0, 114, 178)), drawn(picture, (213, 94, 0))) > 10
    assert drawn(sizes_figure(summary), (0, 114, 178)) > 10


def test_other_thresholds_stand_beside_the_packages_own() -> None:
    section = sections()["Thresholds"]
    assert "a 0.5, b 0.5" in section.text[0]
    assert section.tables[0][0] == ["Threshold", "a", "b"]
    assert section.tables[0][1][:2] == ["0.4", "0.63 / 0.65"]
    ((picture, _),) = section.figures
    assert min(drawn(picture, (0, 114, 178)), drawn(picture, (213, 94, 0))) > 10


def test_a_left_out_scanner_shows_its_cases_in_pairs() -> None:
    section = sections()["Leave one scanner out"]
    ((picture, legend),) = section.figures
    assert "trained with it" in legend
    with_it, without = drawn(picture, (0, 114, 178)), drawn(picture, (213, 94, 0))
    assert min(with_it, without) > 10
    # two of the four cases are of the scanner B
    rows = [{"scanner": "A", "first": "a", "second": "b", "metric": "dice"}]
    scored = {m: [a for a in answers() if a["model"] == m and a["scores"]] for m in ("a", "b")}
    scored["b"] = [one for one in scored["b"] if one["case"] != "c0"]
    assert drawn(left_out_figure(scored, rows), (0, 114, 178)) < with_it


@pytest.fixture
def text_of(need_tool: Callable[[str], str]) -> Callable[[Path], list[str]]:
    """A function that gives the text of each page of a PDF."""

    def read(path: Path) -> list[str]:
        command = [need_tool("pdftotext"), "-layout", str(path), "-"]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        return found.stdout.split("\f")[:-1]

    return read


def test_pages(tmp_path: Path, text_of: Callable[[Path], list[str]]) -> None:
    tall, stream = Image.new("RGB", (400, 3000), "white"), io.BytesIO()
    tall.save(stream, "JPEG")
    found = [
        *sections().values(),
        Section(
            "A case <1>", ["Text & more."], figures=[(stream.getvalue(), "High.")], together=True
        ),
    ]
    write_html(found, "Evaluation", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert '<b style="color:#b3261e">FAIL</b>' in page
    assert "<h2>A case &lt;1&gt;</h2>" in page
    assert "Not a medical device" in page
    write_pdf(found, "Evaluation", tmp_path / "report.pdf")
    pages = text_of(tmp_path / "report.pdf")
    assert all(
        f"page {n}" in one and "Not a medical device" in one for n, one in enumerate(pages, 1)
    )
    # a heading never stands alone at the foot of a page
    for one in pages:
        lines = [line.strip() for line in one.splitlines() if line.strip()]
        assert lines[-2] not in {section.title for section in found}
    (last,) = (one for one in pages if "A case <1>" in one)
    assert "Text & more." in last
    assert "High." in last
