"""Rule sets: a draft a set, and its published versions, which are only ever added to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import Conflict, NotFound, PreconditionFailed
from app.domain.merchant import MerchantId
from app.domain.rule import PublishedRules, RuleSet, RuleSetDraft, RuleSetSummary, RuleSetVersion
from app.domain.rule_gate import RuleVerdict
from app.postgres import audit
from app.postgres.configuration import editing
from app.postgres.database import Database
from app.postgres.published_rules import PublishedRulesReader, rules_of
from app.postgres.tables import rule_set as table
from app.postgres.tables import rule_set_version as versions_table
from app.postgres.webhooks import announce

Check = Callable[[RuleSet, int], None]


class RuleSetStore:
    """See `app.services.merchandise.RuleSetStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[RuleSetSummary]:
        rules = table.c.draft["rules"]
        query = (
            sa.select(
                table.c.id,
                table.c.display_name,
                table.c.published,
                table.c.updated_at,
                sa.func.coalesce(sa.func.jsonb_array_length(rules), 0).label("rule_count"),
            )
            .where(table.c.merchant_id == merchant)
            .order_by(table.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(table.c.id > after)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [
            RuleSetSummary(
                id=row["id"],
                display_name=row["display_name"],
                rule_count=row["rule_count"],
                published=row["published"],
                updated_at=row["updated_at"].timestamp(),
            )
            for row in rows
        ]

    async def get(self, merchant: MerchantId, rule_set_id: str) -> RuleSetDraft:
        """
        Raises:
            NotFound: there is no such rule set.
        """
        async with self._database.merchant(merchant) as connection:
            return await _get(connection, merchant, rule_set_id)

    async def create(
        self, merchant: MerchantId, rule_set_id: str, display_name: str, rules: RuleSet, actor: str
    ) -> RuleSetDraft:
        """
        Raises:
            Conflict: there is a rule set of that id.
        """
        insert = (
            pg.insert(table)
            .values(
                merchant_id=merchant,
                id=rule_set_id,
                display_name=display_name,
                draft=msgspec.to_builtins(rules),
            )
            .on_conflict_do_nothing()
            .returning(table)
        )
        async with self._database.merchant(merchant) as connection:
            row = (await connection.execute(insert)).mappings().one_or_none()
            if row is None:
                raise Conflict(f"there is a rule set {rule_set_id!r} already: change it with PUT")
            await audit.record(
                connection, merchant, actor, "rule_set.create", rule_set_id, after=rules
            )
            return _draft(row)

    async def replace(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        edit: Callable[[RuleSetDraft], tuple[str, RuleSet]],
        expected: frozenset[int] | None,
        actor: str,
    ) -> RuleSetDraft:
        """
        Raises:
            NotFound: there is no such rule set.
            PreconditionFailed: the draft has another version.
        """
        async with self._database.merchant(merchant) as connection:
            before = await _expect(connection, merchant, rule_set_id, expected)
            display_name, rules = edit(before)
            update = (
                sa.update(table)
                .where(table.c.merchant_id == merchant, table.c.id == rule_set_id)
                .values(
                    display_name=display_name,
                    draft=msgspec.to_builtins(rules),
                    version=table.c.version + 1,
                    updated_at=sa.func.now(),
                )
                .returning(table)
            )
            row = (await connection.execute(update)).mappings().one()
            await audit.record(
                connection, merchant, actor, "rule_set.change", rule_set_id, before.rules, rules
            )
            return _draft(row)

    async def delete(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
    ) -> None:
        """
        Raises:
            NotFound: there is no such rule set.
            PreconditionFailed: the draft has another version.
            Conflict: a version of it is in force.
        """
        async with self._database.merchant(merchant) as connection:
            before = await _expect(connection, merchant, rule_set_id, expected)
            if before.published is not None:
                raise Conflict(
                    f"version {before.published} of rule set {rule_set_id!r} is in force: "
                    "withdraw it first"
                )
            await connection.execute(
                sa.delete(table).where(table.c.merchant_id == merchant, table.c.id == rule_set_id)
            )
            await audit.record(
                connection, merchant, actor, "rule_set.delete", rule_set_id, before=before.rules
            )

    async def publish(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
        check: Check,
        verdict: RuleVerdict | None = None,
    ) -> RuleSetVersion:
        """
        Raises:
            NotFound: there is no such rule set.
            PreconditionFailed: the draft has another version.
            InvalidInput: what `check` raises.
        """
        async with editing(self._database, merchant) as connection:
            draft = await _expect(connection, merchant, rule_set_id, expected)
            check(draft.rules, await _count_others(connection, merchant, rule_set_id))
            return await _publish(
                connection, merchant, draft, draft.rules, actor, reason, None, verdict
            )

    async def refused(
        self, merchant: MerchantId, rule_set_id: str, actor: str, verdict: RuleVerdict
    ) -> None:
        async with self._database.merchant(merchant) as connection:
            await audit.record(
                connection, merchant, actor, "rule_set.refuse", rule_set_id, after=verdict
            )

    async def roll_back(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        number: int,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
        check: Check,
    ) -> RuleSetVersion:
        """
        Raises:
            NotFound: there is no such rule set or version.
            PreconditionFailed: the rule set has another version.
            InvalidInput: what `check` raises.
        """
        async with editing(self._database, merchant) as connection:
            draft = await _expect(connection, merchant, rule_set_id, expected)
            old = await _version(connection, merchant, rule_set_id, number)
            assert old.rules is not None  # noqa: S101  # it was asked for
            check(old.rules, await _count_others(connection, merchant, rule_set_id))
            return await _publish(connection, merchant, draft, old.rules, actor, reason, number)

    async def withdraw(
        self,
        merchant: MerchantId,
        rule_set_id: str,
        expected: frozenset[int] | None,
        actor: str,
        reason: str,
    ) -> RuleSetDraft:
        """
        Raises:
            NotFound: there is no such rule set.
            PreconditionFailed: the rule set has another version.
            Conflict: none of its versions is in force.
        """
        async with editing(self._database, merchant) as connection:
            draft = await _expect(connection, merchant, rule_set_id, expected)
            if draft.published is None:
                raise Conflict(f"no version of rule set {rule_set_id!r} is in force")
            row = await _set_published(connection, merchant, rule_set_id, None)
            change = {"number": draft.published, "reason": reason}
            await audit.record(
                connection, merchant, actor, "rule_set.withdraw", rule_set_id, before=change
            )
            await announce(
                connection, merchant, "rule_set.withdrawn", {"rule_set": rule_set_id, **change}
            )
            return _draft(row)

    async def versions(
        self, merchant: MerchantId, rule_set_id: str, *, before: int | None, limit: int
    ) -> Sequence[RuleSetVersion]:
        """
        Raises:
            NotFound: there is no such rule set, and none was ever published.
        """
        columns = [column for column in versions_table.c if column.name != "rules"]
        query = (
            sa.select(*columns)
            .where(
                versions_table.c.merchant_id == merchant,
                versions_table.c.rule_set_id == rule_set_id,
            )
            .order_by(versions_table.c.number.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(versions_table.c.number < before)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
            if not rows and before is None:
                await _get(connection, merchant, rule_set_id)
        return [_version_of(row, None) for row in rows]

    async def version(self, merchant: MerchantId, rule_set_id: str, number: int) -> RuleSetVersion:
        """
        Raises:
            NotFound: there is no such version.
        """
        async with self._database.merchant(merchant) as connection:
            return await _version(connection, merchant, rule_set_id, number)

    async def published(self, merchant: MerchantId) -> Sequence[PublishedRules]:
        """Everything in force, by rule set id."""
        async with self._database.merchant(merchant) as connection:
            return await PublishedRulesReader().read(connection, merchant)


async def _get(
    connection: AsyncConnection, merchant: MerchantId, rule_set_id: str, *, lock: bool = False
) -> RuleSetDraft:
    query = sa.select(table).where(table.c.merchant_id == merchant, table.c.id == rule_set_id)
    if lock:
        query = query.with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no rule set {rule_set_id!r}")
    return _draft(row)


async def _expect(
    connection: AsyncConnection,
    merchant: MerchantId,
    rule_set_id: str,
    expected: frozenset[int] | None,
) -> RuleSetDraft:
    found = await _get(connection, merchant, rule_set_id, lock=True)
    if expected is not None and found.version not in expected:
        raise PreconditionFailed(
            f"rule set {rule_set_id!r} was changed meanwhile: read it again and repeat the change"
        )
    return found


async def _count_others(connection: AsyncConnection, merchant: MerchantId, rule_set_id: str) -> int:
    """Rules in force of the merchant's other rule sets."""
    query = (
        sa.select(
            sa.func.coalesce(
                sa.func.sum(sa.func.jsonb_array_length(versions_table.c.rules["rules"])), 0
            )
        )
        .select_from(table)
        .join(
            versions_table,
            sa.and_(
                versions_table.c.merchant_id == table.c.merchant_id,
                versions_table.c.rule_set_id == table.c.id,
                versions_table.c.number == table.c.published,
            ),
        )
        .where(table.c.merchant_id == merchant, table.c.id != rule_set_id)
    )
    return int(await connection.scalar(query) or 0)


async def _publish(
    connection: AsyncConnection,
    merchant: MerchantId,
    draft: RuleSetDraft,
    rules: RuleSet,
    actor: str,
    reason: str,
    restores: int | None,
    verdict: RuleVerdict | None = None,
) -> RuleSetVersion:
    """Numbers go on where they were, also of a rule set that was deleted and made again."""
    of_set = (versions_table.c.merchant_id == merchant) & (versions_table.c.rule_set_id == draft.id)
    latest = await connection.scalar(sa.select(sa.func.max(versions_table.c.number)).where(of_set))
    insert = (
        sa.insert(versions_table)
        .values(
            merchant_id=merchant,
            rule_set_id=draft.id,
            number=(latest or 0) + 1,
            rules=msgspec.to_builtins(rules),
            actor=actor,
            reason=reason,
            restores=restores,
            verdict=None if verdict is None else msgspec.to_builtins(verdict),
        )
        .returning(versions_table)
    )
    version = _version_of((await connection.execute(insert)).mappings().one(), None)
    await _set_published(connection, merchant, draft.id, version.number)
    change = {"number": version.number, "reason": reason, "restores": restores}
    await audit.record(
        connection,
        merchant,
        actor,
        "rule_set.publish" if restores is None else "rule_set.roll_back",
        draft.id,
        before={"number": draft.published},
        after=change,
    )
    event = {"rule_set": draft.id, **change, "actor": actor}
    await announce(connection, merchant, "rule_set.published", event)
    return version


async def _set_published(
    connection: AsyncConnection, merchant: MerchantId, rule_set_id: str, number: int | None
) -> sa.RowMapping:
    update = (
        sa.update(table)
        .where(table.c.merchant_id == merchant, table.c.id == rule_set_id)
        .values(published=number, version=table.c.version + 1)
        .returning(table)
    )
    row: sa.RowMapping = (await connection.execute(update)).mappings().one()
    return row


async def _version(
    connection: AsyncConnection, merchant: MerchantId, rule_set_id: str, number: int
) -> RuleSetVersion:
    query = sa.select(versions_table).where(
        versions_table.c.merchant_id == merchant,
        versions_table.c.rule_set_id == rule_set_id,
        versions_table.c.number == number,
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no version {number} of rule set {rule_set_id!r}")
    return _version_of(row, rules_of(row["rules"]))


def _draft(row: Any) -> RuleSetDraft:
    return RuleSetDraft(
        id=row["id"],
        display_name=row["display_name"],
        rules=rules_of(row["draft"]),
        version=row["version"],
        published=row["published"],
        created_at=row["created_at"].timestamp(),
        updated_at=row["updated_at"].timestamp(),
    )


def _version_of(row: Any, rules: RuleSet | None) -> RuleSetVersion:
    return RuleSetVersion(
        rule_set_id=row["rule_set_id"],
        number=row["number"],
        actor=row["actor"],
        reason=row["reason"],
        published_at=row["published_at"].timestamp(),
        restores=row["restores"],
        verdict=None if row["verdict"] is None else msgspec.convert(row["verdict"], RuleVerdict),
        rules=rules,
    )
