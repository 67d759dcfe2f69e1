"""The application as a container: manifests, entrypoint, bill of materials, locks."""
