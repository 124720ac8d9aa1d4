"""Pods: one row each, the definition as it is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.configuration import Versioned
from app.domain.errors import (
    Conflict,
    FieldError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from app.domain.merchant import MerchantId
from app.domain.pod import Pod
from app.postgres import audit
from app.postgres.configuration import editing, readable_pod, stored_pod
from app.postgres.database import Database
from app.postgres.tables import pod as table
from app.postgres.tables import strategy_configuration


class PodStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, merchant: MerchantId, *, after: str | None, limit: int
    ) -> Sequence[Versioned[Pod]]:
        """By id, those after `after`."""
        query = (
            sa.select(table)
            .where(table.c.merchant_id == merchant)
            .order_by(table.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(table.c.id > after)
        async with self._database.merchant(merchant) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_pod(row) for row in rows if readable_pod(merchant, row["definition"]) is not None]

    async def get(self, merchant: MerchantId, pod_id: str) -> Versioned[Pod]:
        """
        Raises:
            NotFound: there is no such pod.
        """
        async with self._database.merchant(merchant) as connection:
            return _pod(await _get(connection, merchant, pod_id))

    async def create(self, merchant: MerchantId, pod: Pod, actor: str) -> Versioned[Pod]:
        """
        Raises:
            Conflict: there is a pod of that id.
            InvalidInput: the chain names what does not exist.
        """
        async with editing(self._database, merchant) as connection:
            await _check_chain(connection, merchant, pod)
            insert = (
                pg.insert(table)
                .values(merchant_id=merchant, id=pod.id, definition=msgspec.to_builtins(pod))
                .on_conflict_do_nothing()
                .returning(table)
            )
            row = (await connection.execute(insert)).mappings().one_or_none()
            if row is None:
                raise Conflict(f"there is a pod {pod.id!r} already: change it with PUT")
            await audit.record(connection, merchant, actor, "pod.create", pod.id, after=pod)
            return _pod(row)

    async def replace(
        self, merchant: MerchantId, pod: Pod, expected: frozenset[int] | None, actor: str
    ) -> Versioned[Pod]:
        """
        Args:
            expected: the versions that the author may have seen; None: any.

        Raises:
            NotFound: there is no such pod.
            PreconditionFailed: it has another version.
            InvalidInput: the chain names what does not exist.
        """
        async with editing(self._database, merchant) as connection:
            before = await _expect(connection, merchant, pod.id, expected)
            await _check_chain(connection, merchant, pod)
            update = (
                sa.update(table)
                .where(table.c.merchant_id == merchant, table.c.id == pod.id)
                .values(
                    definition=msgspec.to_builtins(pod),
                    version=table.c.version + 1,
                    updated_at=sa.func.now(),
                )
                .returning(table)
            )
            row = (await connection.execute(update)).mappings().one()
            await audit.record(
                connection,
                merchant,
                actor,
                "pod.change",
                pod.id,
                before=before["definition"],
                after=pod,
            )
            return _pod(row)

    async def delete(
        self, merchant: MerchantId, pod_id: str, expected: frozenset[int] | None, actor: str
    ) -> None:
        """Raises as `replace` does."""
        async with editing(self._database, merchant) as connection:
            before = await _expect(connection, merchant, pod_id, expected)
            await connection.execute(
                sa.delete(table).where(table.c.merchant_id == merchant, table.c.id == pod_id)
            )
            await audit.record(
                connection, merchant, actor, "pod.delete", pod_id, before=before["definition"]
            )


async def _get(connection: AsyncConnection, merchant: MerchantId, pod_id: str) -> sa.RowMapping:
    query = sa.select(table).where(table.c.merchant_id == merchant, table.c.id == pod_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no pod {pod_id!r}")
    return row


async def _expect(
    connection: AsyncConnection,
    merchant: MerchantId,
    pod_id: str,
    expected: frozenset[int] | None,
) -> sa.RowMapping:
    """The row as it is: one that cannot be read can be changed and deleted all the same."""
    found = await _get(connection, merchant, pod_id)
    if expected is not None and found["version"] not in expected:
        raise PreconditionFailed(
            f"pod {pod_id!r} was changed meanwhile: read it again and repeat the change"
        )
    return found


async def _check_chain(connection: AsyncConnection, merchant: MerchantId, pod: Pod) -> None:
    """Every part of the chain is a strategy configuration of the pod's section."""
    columns = strategy_configuration.c
    rows = await connection.execute(
        sa.select(columns.id, columns.section).where(columns.merchant_id == merchant)
    )
    sections = {row.id: row.section for row in rows}
    wrong = []
    for place, name in enumerate(pod.chain):
        where = f"/chain/{place}"
        if name not in sections:
            known = ", ".join(sorted(sections)) or "none yet"
            wrong.append(
                FieldError(
                    where, f"there is no strategy configuration {name!r}; there are: {known}"
                )
            )
        elif sections[name] != pod.section:
            wrong.append(
                FieldError(
                    where,
                    f"strategy configuration {name!r} is of section {sections[name]!r}, and the "
                    f"pod of {pod.section!r}",
                )
            )
        elif name in pod.chain[:place]:
            wrong.append(FieldError(where, f"{name!r} is in the chain already"))
    if wrong:
        raise InvalidInput(f"{wrong[0].field}: {wrong[0].message}", wrong)


def _pod(row: Any) -> Versioned[Pod]:
    """
    Raises:
        Conflict: it cannot be read.
    """
    try:
        pod = stored_pod(row["definition"])
    except msgspec.ValidationError as error:
        raise Conflict(
            f"pod {row['id']!r} cannot be read by this version of the server: {error}"
        ) from None
    return Versioned(
        value=pod,
        version=row["version"],
        created_at=row["created_at"].timestamp(),
        updated_at=row["updated_at"].timestamp(),
    )
