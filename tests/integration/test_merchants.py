"""Merchants, keys and tokens in PostgreSQL."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from app.domain.errors import Conflict, InvalidInput, NotFound
from app.domain.merchant import MerchantId, Role, TrackingSettings, token_digest
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database
from app.postgres.merchants import Merchants
from app.postgres.tables import audit


@pytest.fixture
def store(database: Database) -> Merchants:
    return Merchants(database)


async def test_what_is_created_is_what_servers_read(store: Merchants, database: Database) -> None:
    await store.create(
        "shop", "A shop", tracking=TrackingSettings(internal_ips=("10.0.0.0/8",)), actor="cli"
    )
    shop = MerchantId("shop")
    key = await store.create_key(shop, allowed_origins=["https://shop.example"], actor="cli")
    issued = await store.create_token(shop, Role.INGEST, label="nightly", actor="cli")

    configuration = await ConfigurationReader(database).load(shop)

    assert configuration.merchant == await store.get(shop)
    assert configuration.merchant.tracking.internal_ips == ("10.0.0.0/8",)
    assert [(k.key, k.allowed_origins) for k in configuration.keys] == [
        (key.key, ("https://shop.example",))
    ]
    assert [(c.id, c.role, c.digest) for c in configuration.credentials] == [
        (issued.token.id, Role.INGEST, token_digest(issued.secret))
    ]
    assert configuration.merchant.configuration_version == 2  # one a change after its creation


async def test_the_secret_is_nowhere_in_the_database(
    store: Merchants, database: Database, admin_url: str
) -> None:
    shop = (await store.create("shop", "A shop", actor="cli")).id
    issued = await store.create_token(shop, Role.ADMINISTRATOR, actor="cli")
    rotated = await store.rotate_token(shop, issued.token.id, actor="cli")
    assert issued.secret != rotated.secret
    assert issued.secret not in repr(issued)
    async with database.merchant(shop) as connection:
        for table in ("token", "audit", "merchant"):
            rows = (await connection.execute(sa.text(f"SELECT t::text FROM {table} t"))).scalars()
            text = "".join(rows)
            assert text
            for secret in (issued.secret, rotated.secret):
                assert secret not in text
                assert secret.removeprefix("vitrine_") not in text


async def test_each_change_is_in_the_audit_log_and_steps_the_version(
    store: Merchants, database: Database
) -> None:
    shop = (await store.create("shop", "A shop", actor="cli")).id
    key = await store.create_key(shop, actor="tok_1")
    issued = await store.create_token(shop, Role.READER, actor="tok_1")
    rotated = await store.rotate_token(shop, issued.token.id, overlap_seconds=60, actor="tok_2")
    await store.revoke_token(shop, rotated.token.id, actor="tok_2")
    await store.revoke_key(shop, key.key, actor="tok_2")
    await store.set_tracking(shop, TrackingSettings(require_consent=True), actor="tok_3")

    async with database.merchant(shop) as connection:
        rows = (
            await connection.execute(
                sa.select(audit.c.actor, audit.c.action, audit.c.subject).order_by(audit.c.id)
            )
        ).all()
    assert [tuple(row) for row in rows] == [
        ("cli", "merchant.create", "shop"),
        ("tok_1", "key.create", key.key),
        ("tok_1", "token.create", issued.token.id),
        ("tok_2", "token.rotate", issued.token.id),
        ("tok_2", "token.revoke", rotated.token.id),
        ("tok_2", "key.revoke", key.key),
        ("tok_3", "merchant.settings", "shop"),
    ]
    found = await store.get(shop)
    assert found.configuration_version == 6
    assert found.tracking.require_consent


async def test_revoked_and_expired_ones_are_not_served(
    store: Merchants, database: Database
) -> None:
    shop = (await store.create("shop", "A shop", actor="cli")).id
    old = await store.create_token(shop, Role.READER, actor="cli")
    kept = await store.rotate_token(shop, old.token.id, overlap_seconds=60, actor="cli")
    gone = await store.create_token(shop, Role.READER, actor="cli")
    key = await store.create_key(shop, actor="cli")
    await store.revoke_token(shop, gone.token.id, actor="cli")
    first = await store.revoke_key(shop, key.key, actor="cli")
    again = await store.revoke_key(shop, key.key, actor="cli")
    assert first.revoked_at == again.revoked_at

    configuration = await ConfigurationReader(database).load(shop)
    assert configuration.keys == ()
    by_id = {credential.id: credential for credential in configuration.credentials}
    assert by_id.keys() == {old.token.id, kept.token.id}
    assert by_id[old.token.id].expires_at == pytest.approx(time.time() + 60, abs=30)
    assert by_id[kept.token.id].expires_at is None
    assert {record.id for record in await store.tokens(shop)} >= {gone.token.id}
    assert [record.key for record in await store.keys(shop)] == [key.key]


async def test_merchants_are_listed_in_pages(store: Merchants) -> None:
    for name in ("c", "a", "b"):
        await store.create(name, name, actor="cli")
    first = await store.page(limit=2)
    rest = await store.page(after=first[-1].id, limit=2)
    assert [m.id for m in [*first, *rest]] == ["a", "b", "c"]


@pytest.mark.parametrize("wrong", ["", "Shop", "a b", "-a", "../up", "a" * 64, "ä"])
async def test_a_wrong_id_is_named_and_changes_nothing(store: Merchants, wrong: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await store.create(wrong, "A shop", actor="cli")
    assert caught.value.errors[0].field == "id"
    assert await store.page() == []


async def test_wrong_input_changes_nothing(store: Merchants) -> None:
    shop = (await store.create("shop", "A shop", actor="cli")).id
    with pytest.raises(Conflict):
        await store.create("shop", "Another", actor="cli")
    with pytest.raises(InvalidInput, match="name"):
        await store.create("other", " ", actor="cli")
    with pytest.raises(InvalidInput, match="/allowed_origins/1"):
        await store.create_key(shop, allowed_origins=["https://a", "a.example"], actor="cli")
    with pytest.raises(InvalidInput, match="expires_at"):
        await store.create_token(shop, Role.READER, expires_at=1.0, actor="cli")
    with pytest.raises(NotFound):
        await store.create_key(MerchantId("nobody"), actor="cli")
    with pytest.raises(NotFound):
        await store.revoke_token(shop, "tok_none", actor="cli")
    with pytest.raises(NotFound):
        await store.get(MerchantId("nobody"))
    revoked = await store.create_token(shop, Role.READER, actor="cli")
    await store.revoke_token(shop, revoked.token.id, actor="cli")
    with pytest.raises(Conflict):
        await store.rotate_token(shop, revoked.token.id, actor="cli")
    assert await store.keys(shop) == []
    assert (await store.get(shop)).configuration_version == 2  # the token made, and revoked


async def test_another_merchants_key_and_token_are_not_found(store: Merchants) -> None:
    mine = (await store.create("mine", "Mine", actor="cli")).id
    theirs = (await store.create("theirs", "Theirs", actor="cli")).id
    key = await store.create_key(theirs, actor="cli")
    issued = await store.create_token(theirs, Role.READER, actor="cli")
    with pytest.raises(NotFound):
        await store.revoke_key(mine, key.key, actor="cli")
    with pytest.raises(NotFound):
        await store.revoke_token(mine, issued.token.id, actor="cli")
    with pytest.raises(NotFound):
        await store.rotate_token(mine, issued.token.id, actor="cli")
    assert (await store.tokens(theirs))[0].revoked_at is None
