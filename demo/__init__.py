"""A patient to try the application on: synthetic with known truth, or a real one wrapped."""
