"""vitrine-similar: items that go with the one looked at, or with a whole cart."""

from vitrine_similar.strategy import Similar, SimilarConfig, SimilarModel

__all__ = ["Similar", "SimilarConfig", "SimilarModel"]
