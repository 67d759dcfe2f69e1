"""Name and version of the application, as they stand in every output."""

NAME = "MS Lesion Follow-up"
VERSION = "0.1.0"
MANUFACTURER = "MS Lesion Follow-up project"
STATEMENT = "Research use only. Not a medical device."
