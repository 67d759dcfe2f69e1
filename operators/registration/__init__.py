"""Relates all images to the current FLAIR: rigid registration, brain mask, failure detection."""
