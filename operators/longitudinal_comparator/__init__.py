"""Lesions as objects: measured, located, matched with the prior study, their change classified."""
