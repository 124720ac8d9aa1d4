"""vitrine-session: what comes next in this visit, from visits like it. Needs no known shopper."""

from vitrine_session.strategy import Session, SessionConfig, SessionModel

__all__ = ["Session", "SessionConfig", "SessionModel"]
