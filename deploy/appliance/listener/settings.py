"""Settings of the listener, from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, StringConstraints, ValidationError

from operators.errors import ConfigurationError
from operators.settings import Settings

AeTitle = Annotated[
    str, StringConstraints(pattern=r"^[^\\\x00-\x1f\s](?:[^\\\x00-\x1f]{0,14}\S)?$")
]
Port = Annotated[int, Field(gt=0, lt=65536)]
Seconds = Annotated[float, Field(ge=0)]


class Node(Settings):
    """A DICOM node."""

    ae_title: AeTitle
    host: str
    port: Port = 104


class EarlierStudies(Settings):
    """Which earlier studies are collected for a follow-up."""

    query_node: Node | None = None
    """PACS that is asked for earlier studies (C-FIND, C-MOVE); None uses only what was received."""
    modality: str = "MR"
    description: str | None = None
    """Regular expression that the Study Description must match somewhere, without regard to case;
    None takes every study of the modality."""
    maximum: Annotated[int, Field(ge=0)] = 6
    """At most so many earlier studies, the latest ones."""


class ListenerSettings(Settings):
    """All settings of the listener."""

    ae_title: AeTitle = "MSLESION"
    bind: str = "0.0.0.0"
    port: Port = 11112
    callers: tuple[AeTitle, ...]
    """AE titles that may send studies; every other one is rejected."""
    spool: Path
    """Folder that must survive a restart: received studies, jobs and results."""
    models: Path | None = None
    """Folder of the model packages; None takes the application's own."""
    application_config: Path | None = None
    """An app.yaml; None takes the application's own."""
    quiet_s: Seconds = 90
    """A study counts as complete when nothing arrived for so long. Scanners that send series by
    series while the patient is still examined need several minutes."""
    only_latest: bool = True
    """Of several studies of one patient that wait at the same time, process the latest only; the
    others serve it as earlier studies. So a PACS may send the earlier studies along."""
    reserve_gb: Annotated[float, Field(ge=0)] = 10
    """With less free disk space than this, images are refused, so that the sender keeps them."""
    earlier_studies: EarlierStudies = EarlierStudies()
    destinations: tuple[Node, ...] = Field(min_length=1)
    """Where the results are sent."""
    run_timeout_s: Annotated[float, Field(gt=0)] = 1800
    attempts: Annotated[int, Field(gt=0)] = 4
    """Tries of a job that fails for no fault of its input, before it is set aside."""
    retry_s: Seconds = 60
    """Wait before the second try; doubled each time, up to an hour."""
    keep_days: Annotated[float, Field(gt=0)] = 30
    """Received studies and results are deleted so long after their last use. Without a query node
    this is also how long a study can serve as an earlier one."""


def load_listener_settings(path: Path) -> ListenerSettings:
    """Read and check the settings.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or a setting is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return ListenerSettings.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(
            path.name,
            f"It cannot be read as YAML ({type(error).__name__}).",
            "Give the listener's settings file with -c.",
        ) from error
    except ValidationError as error:
        detail = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()
        )
        raise ConfigurationError(
            path.name,
            f"A setting is wrong ({detail}).",
            "Compare it with deploy/appliance/listener.yaml.",
        ) from error
