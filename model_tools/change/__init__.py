"""Does the comparison find change that is there, and none that is not? On real scans.

``generator`` makes the trials (it cannot see the comparator), ``chain`` runs the application's own
stages on them without DICOM, ``score`` compares with the truth, ``summary`` writes the tables of
docs/evaluation.md and the noise floor that the report quotes.
"""
