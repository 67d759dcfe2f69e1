"""Errors that a user can act on: what it concerns, which rule it breaks, what to do about it."""

from __future__ import annotations


class UserError(Exception):
    """An error that names its subject, the rule that was broken and the remedy.

    Parameters
    ----------
    subject
        The file, series or setting concerned, without patient name, identifier or date.
    rule
        The rule that is broken, as a full sentence.
    remedy
        What the user can do about it, as a full sentence.
    """

    exit_code = 1

    def __init__(self, subject: str, rule: str, remedy: str) -> None:
        super().__init__(f"{subject}: {rule} {remedy}")
        self.subject = subject
        self.rule = rule
        self.remedy = remedy


class InputError(UserError):
    """The input cannot be processed (exit code 2)."""

    exit_code = 2


class ConfigurationError(UserError):
    """The settings or the model package cannot be used (exit code 3)."""

    exit_code = 3


class OutputError(UserError):
    """The result cannot be written (exit code 1)."""

    exit_code = 1
