"""Lesion segmentation: a model package, an engine, tiling over the brain."""
