"""From a folder of files to studies, series and checked volumes."""
