"""Keys and tokens: what the admin API needs of their store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.domain.merchant import IssuedToken, KeyRecord, MerchantId, Role, TokenRecord


class CredentialStore(Protocol):
    """Raises (every method): Unavailable."""

    async def create_key(
        self,
        merchant: MerchantId,
        *,
        label: str = "",
        allowed_origins: Sequence[str] = (),
        actor: str,
    ) -> KeyRecord: ...

    async def keys(self, merchant: MerchantId) -> Sequence[KeyRecord]: ...

    async def revoke_key(self, merchant: MerchantId, key: str, *, actor: str) -> KeyRecord: ...

    async def create_token(
        self,
        merchant: MerchantId,
        role: Role,
        *,
        label: str = "",
        expires_at: float | None = None,
        actor: str,
    ) -> IssuedToken: ...

    async def tokens(self, merchant: MerchantId) -> Sequence[TokenRecord]: ...

    async def revoke_token(
        self, merchant: MerchantId, token_id: str, *, actor: str
    ) -> TokenRecord: ...

    async def rotate_token(
        self, merchant: MerchantId, token_id: str, *, overlap_seconds: float = 0, actor: str
    ) -> IssuedToken: ...
