"""The operations of a `tests.ruled_shop.RuledShop`: rules, and what is needed to see their work."""

from __future__ import annotations

from typing import Any

from app.http.admin_audit import AdminAudit
from app.http.admin_rule_versions import AdminRuleVersions
from app.http.admin_rules import AdminRules
from app.http.idempotency import Idempotency
from app.http.operation import Operation
from app.http.rate_limit import RateLimit
from app.http.storefront import Storefront, result_ids
from app.postgres.audit import AuditLog
from app.postgres.idempotency import IdempotencyKeyStore
from app.postgres.rule_sets import RuleSetStore
from app.services.merchandise import Merchandise


def rules_operations(shop: Any) -> list[Operation]:
    idempotency = Idempotency(IdempotencyKeyStore(shop.database))
    merchandise = Merchandise(RuleSetStore(shop.database), shop.indexes)
    admin = (
        AdminRules(merchandise, idempotency),
        AdminRuleVersions(merchandise, idempotency),
        AdminAudit(AuditLog(shop.database)),
    )
    limited = RateLimit(100_000).limited(
        [operation for handler in admin for operation in handler.operations()]
    )
    storefront = Storefront(shop.serving, shop.recommend, result_ids())
    return [*limited, *storefront.operations()]
