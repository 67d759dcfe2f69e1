"""Receives studies, collects the earlier ones, runs the application, sends the results back."""
