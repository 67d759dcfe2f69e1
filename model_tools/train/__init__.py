"""Training of the project's own ensemble from open data (``python -m model_tools train``)."""
