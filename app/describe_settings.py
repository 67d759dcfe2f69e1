"""Make docs/configuration.md from the settings classes: ``python -m app.describe_settings``."""

from __future__ import annotations

import re
import sys
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.config import AppSettings
from operators.settings import Settings

HEAD = """# Configuration

Made by `python -m app.describe_settings` from the settings classes; a test keeps it so.

`app.yaml` lies beside the application; the variable `HOLOSCAN_CONFIG_PATH` names another one. Its
section `settings` has one sub-section per stage. An unknown key, a wrong type or a value out of
range ends the run with exit code 3 and names the key.
"""


def describe(settings: type[Settings], title: str) -> str:
    """One section of the page: the class's sentence, then a table of its fields."""
    lines = [f"\n## {title}\n", (settings.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")]
    lines += ["\n| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in settings.model_fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(field)} | {_default(field)} | {meaning} |")
    nested = "".join(
        describe(inner, f"{title}: `{name}`")
        for name, field in settings.model_fields.items()
        if isinstance(inner := field.annotation, type) and issubclass(inner, Settings)
    )
    return "\n".join(lines) + "\n" + nested


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        text = annotation.__name__
    else:
        text = re.sub(r"Annotated\[([\w.]+), .*?>\)\]", r"\1", str(annotation))
        text = re.sub(r"\b(typing|operators)\.(\w+\.)*", "", text)
    limits = [str(limit).removesuffix(")").split("(")[-1] for limit in field.metadata]
    shown = f"{text}, {', '.join(limits)}" if limits else text
    return f"`{shown}`".replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=False)
    if field.default_factory is not None or isinstance(value, Settings):
        return "see the class"
    if value is PydanticUndefined:
        return "required"
    text = f"{value!r}"
    return f"`{text}`".replace("|", "\\|") if len(text) < 80 else "see app.yaml"


def page() -> str:
    """The whole page."""
    stages = "".join(
        describe(field.annotation, f"`{name}`")
        for name, field in AppSettings.model_fields.items()
        if isinstance(field.annotation, type)
    )
    return HEAD + stages


if __name__ == "__main__":
    sys.stdout.write(page())
