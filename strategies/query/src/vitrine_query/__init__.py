"""vitrine-query: what shoppers who searched the term went on to choose."""

from vitrine_query.strategy import Query, QueryConfig, QueryModel

__all__ = ["Query", "QueryConfig", "QueryModel"]
