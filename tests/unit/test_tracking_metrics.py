"""Every outcome of every type of event has its counter."""

from __future__ import annotations

import pytest

from app.domain.event import Event, Shopper
from app.domain.merchant import MerchantId
from app.services.tracking_metrics import OUTCOMES, TrackingMetrics
from app.telemetry.metrics import Metrics
from vitrine_sdk import EventType


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_is_counted(outcome: str) -> None:
    metrics = Metrics()
    observer = TrackingMetrics(metrics)
    for type_ in EventType:
        event = Event(
            merchant=MerchantId("shop"),
            type=type_,
            action="a",
            time=1.0,
            received=1.0,
            shopper=Shopper(),
            fingerprint=b"",
        )
        observer.received(event, outcome)
        value = metrics.registry.get_sample_value(
            "vitrine_events_total", {"type": type_.name.lower(), "outcome": OUTCOMES[outcome]}
        )
        assert value == 1.0
