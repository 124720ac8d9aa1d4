"""What can go wrong, in the domain's words. `app.http.problem` turns these into answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong part of an input."""

    field: str  # parameter name, or JSON pointer into the body: "/items/3/id"
    message: str  # what is wrong and how to mend it; shown to the client


class VitrineError(Exception):
    """Base of all errors that a caller may be told of. `message` is written for the caller."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(VitrineError):
    """The caller's input is wrong; nothing was changed."""

    def __init__(self, message: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)

    @classmethod
    def field(cls, field: str, message: str) -> InvalidInput:
        return cls(f"{field}: {message}", (FieldError(field, message),))


class TooLarge(InvalidInput):
    """The input is well-formed but over a limit."""


class Unauthenticated(VitrineError):
    """No key or token, or an unknown, expired or revoked one."""


class Forbidden(VitrineError):
    """The token is known, but its role does not allow this."""


class NotFound(VitrineError):
    """There is no such thing, or it belongs to somebody else; which of them is not told."""


class Conflict(VitrineError):
    """The state does not allow this now (exists already, is running, key reused)."""


class PreconditionFailed(VitrineError):
    """If-Match names a version that is no longer the current one."""


class PreconditionRequired(VitrineError):
    """A change without If-Match."""


class Unavailable(VitrineError):
    """A store is away, or a queue is full. Nothing was changed; try again."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class TooMany(VitrineError):
    """More calls than the caller may make. Nothing was changed; try again later."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds
