"""vitrine-personalized: what this shopper wants next, from what they did lately."""

from vitrine_personalized.strategy import Personalized, PersonalizedConfig, PersonalizedModel

__all__ = ["Personalized", "PersonalizedConfig", "PersonalizedModel"]
