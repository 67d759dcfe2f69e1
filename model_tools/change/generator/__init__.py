"""Transplanted change and test-retest studies from real scans, with their truth.

Nothing in here imports the comparator (``operators.longitudinal_comparator``) or the segmentation,
directly or through another module; a test holds that.
"""
