"""Wiring and entry points of the application; no imaging code."""
