"""The rules that are in force, read within a transaction."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput
from app.domain.merchant import MerchantId
from app.domain.rule import PublishedRules, RuleSet
from app.postgres.tables import rule_set as table
from app.postgres.tables import rule_set_version as versions_table


class PublishedRulesReader:
    """Reads what is in force within a transaction. Versions never change, so what was read once is
    kept, while it is in force."""

    def __init__(self) -> None:
        self._known: dict[MerchantId, dict[tuple[str, int], PublishedRules]] = {}

    async def read(
        self, connection: AsyncConnection, merchant: MerchantId
    ) -> tuple[PublishedRules, ...]:
        """By rule set id.

        Raises:
            msgspec.ValidationError: an earlier version of Vitrine wrote what this one cannot
                evaluate.
        """
        in_force = (
            sa.select(table.c.id, table.c.published)
            .where(table.c.merchant_id == merchant, table.c.published.is_not(None))
            .order_by(table.c.id)
        )
        wanted = [(row.id, row.published) for row in await connection.execute(in_force)]
        known = self._known.get(merchant, {})
        missing = [version for version in wanted if version not in known]
        fresh: dict[tuple[str, int], PublishedRules] = {}
        if missing:
            query = sa.select(
                versions_table.c.rule_set_id, versions_table.c.number, versions_table.c.rules
            ).where(
                versions_table.c.merchant_id == merchant,
                sa.tuple_(versions_table.c.rule_set_id, versions_table.c.number).in_(missing),
            )
            for row in await connection.execute(query):
                fresh[row.rule_set_id, row.number] = PublishedRules(
                    rule_set_id=row.rule_set_id,
                    number=row.number,
                    rules=msgspec.convert(row.rules, RuleSet),
                )
        found = {version: known.get(version) or fresh[version] for version in wanted}
        self._known[merchant] = found
        return tuple(found.values())


def rules_of(document: Any) -> RuleSet:
    """
    Raises:
        InvalidInput: an earlier version of Vitrine wrote what this one cannot evaluate.
    """
    try:
        return msgspec.convert(document, RuleSet)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"these rules cannot be evaluated by this version: {error}") from None
