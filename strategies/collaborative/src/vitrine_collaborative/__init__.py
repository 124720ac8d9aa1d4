"""vitrine-collaborative: what people of the same taste choose, from a whole long history."""

from vitrine_collaborative.strategy import (
    Collaborative,
    CollaborativeConfig,
    CollaborativeModel,
)

__all__ = ["Collaborative", "CollaborativeConfig", "CollaborativeModel"]
