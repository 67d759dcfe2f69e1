"""A patient with one study: python -m tests.image.small_patient FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from demo.patient import make_patient, with_studies
from demo.synthetic import write_patient

if __name__ == "__main__":
    write_patient(with_studies(make_patient(), 1), Path(sys.argv[1]), "siemens", distractors=False)
