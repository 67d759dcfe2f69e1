"""Descriptions and attributes as four vendors and hospitals in four languages write them.

The rows are made up after what such headers look like; the real ones are in test_real_headers.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from operators.messages import SeriesAttributes
from operators.series_selector.classification import classify
from operators.series_selector.settings import SeriesSelectorSettings

TABLE = Path(__file__).with_name("described_series.csv")


def rows() -> list[dict[str, str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def attributes_of(row: dict[str, str]) -> SeriesAttributes:
    def number(text: str | None) -> float | None:
        return float(text) if text else None

    def tokens(text: str) -> tuple[str, ...]:
        return tuple(text.split("\\")) if text else ()

    other = dict(item.split("=", 1) for item in row["other"].split(";") if item)
    return SeriesAttributes(
        modality="MR",
        manufacturer=row["vendor"] or None,
        series_number=3,
        series_description=row["description"] or None,
        protocol_name=other.get("protocol"),
        sequence_name=other.get("seqname"),
        body_part_examined=other.get("body"),
        contrast_agent=other.get("agent"),
        b_value=number(other.get("b")),
        enhanced="enhanced" in other,
        scanning_sequence=tokens(row["sequence"]),
        mr_acquisition_type=row["acquisition"] or None,
        echo_time_ms=number(row["te"]),
        repetition_time_ms=number(row["tr"]),
        inversion_time_ms=number(row["ti"]),
        image_type=tokens(row["image_type"]),
    )


def test_the_table_is_large_enough() -> None:
    assert len(rows()) >= 80
    assert {"Siemens", "GE", "Philips", "Canon", "Hitachi"} <= {row["vendor"] for row in rows()}


@pytest.mark.parametrize(
    "row", rows(), ids=[f"{row['vendor']}-{row['description']}" for row in rows()]
)
def test_described_series(rules: SeriesSelectorSettings, row: dict[str, str]) -> None:
    found = classify(attributes_of(row), rules)
    assert (found.role or found.code) == row["expected"], found.reason
    assert ("yes" if found.facts.contrast else "no") == row["contrast"], found.facts.words
    assert found.reason
    if found.role and not row["sequence"] and not row["image_type"]:
        assert found.code == "description"
        assert "the attributes do not decide" in found.reason
