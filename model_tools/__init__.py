"""Tools that make model packages: train, export (and, elsewhere, import and evaluate)."""
