"""One box beside the PACS: a DICOM listener that runs the application and returns its results."""
