"""`vitrine demo`: a whole shop from one command."""

from app.cli.demo.command import demo

__all__ = ["demo"]
