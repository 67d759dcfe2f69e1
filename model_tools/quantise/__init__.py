"""int8 networks for a model package: made, tried on studies held out, and kept or refused."""
