"""The operations of a `tests.ruled_shop.RuledShop`: rules, and what is needed to see their work."""

from __future__ import annotations

from typing import Any

from app.domain.rule_gate import RuleGateRule
from app.http.admin_audit import AdminAudit
from app.http.admin_rule_previews import AdminRulePreviews
from app.http.admin_rule_versions import AdminRuleVersions
from app.http.admin_rules import AdminRules
from app.http.admin_webhooks import AdminWebhooks
from app.http.explanations import Explanations
from app.http.idempotency import Idempotency
from app.http.operation import Operation
from app.http.rate_limit import RateLimit
from app.http.storefront import Storefront, result_ids
from app.http.storefront_page import StorefrontPage
from app.postgres.audit import AuditLog
from app.postgres.idempotency import IdempotencyKeyStore
from app.postgres.rule_samples import RuleSamples
from app.postgres.rule_sets import RuleSetStore
from app.postgres.webhooks import WebhookStore
from app.services.conflicts import RuleReach
from app.services.explain import Explain
from app.services.judge_rules import JudgeRules
from app.services.merchandise import Merchandise
from app.services.preview import Previews
from app.services.webhooks import Webhooks


def rules_operations(shop: Any) -> list[Operation]:
    idempotency = Idempotency(IdempotencyKeyStore(shop.database))
    explain = Explain(shop.runner, shop.histories, shop.features)
    previews = Previews(explain, shop.indexes, RuleSamples(shop.database))
    gate = JudgeRules(shop.serving, previews, RuleGateRule(least=5))
    merchandise = Merchandise(RuleSetStore(shop.database), shop.indexes, gate)
    admin = (
        AdminRules(merchandise, idempotency),
        AdminRuleVersions(merchandise, idempotency),
        AdminRulePreviews(shop.serving, merchandise, previews, RuleReach(shop.indexes)),
        AdminAudit(AuditLog(shop.database)),
        AdminWebhooks(Webhooks(WebhookStore(shop.database), allow_http=True), idempotency),
    )
    limited = RateLimit(100_000).limited(
        [operation for handler in admin for operation in handler.operations()]
    )
    new_id = result_ids()
    storefront = Storefront(
        shop.serving, shop.recommend, new_id, Explanations(explain, shop.serving)
    )
    page = StorefrontPage(shop.serving, shop.recommend, new_id)
    return [*limited, *storefront.operations(), *page.operations()]
