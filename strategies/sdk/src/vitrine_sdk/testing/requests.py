"""Requests for the conformance kit to ask a model."""

from __future__ import annotations

from typing import Final

import numpy as np

from vitrine_sdk.contract import Context, EventType, Needs, TrainingData
from vitrine_sdk.testing.shops import context, history

SEED: Final = 7


def contexts(needs: Needs, data: TrainingData) -> list[Context]:
    """Requests of several shapes that give what `needs` asks for."""
    n = len(data.items)
    rng = np.random.default_rng(SEED)
    events = data.events
    known = events.item[events.item >= 0]
    popular = [int(i) for i in np.argsort(-np.bincount(known, minlength=n), kind="stable")[:12]]
    kinds = [EventType.PURCHASE, EventType.VIEW, EventType.CART, EventType.CLICK]
    found: list[Context] = []
    terms: list[str | None] = [*list(events.terms)[:2], "never asked"] if needs.term else [None]
    for size in (1, 2, 5, 12):
        chosen = popular[:size] if size % 2 else popular[-size:]
        chosen = [i for i in chosen if i < n]
        seeds = chosen if needs.seeds else []
        past = history([])
        if needs.history:
            walk = [*chosen, *chosen[:1]][: needs.history]
            past = history(
                walk,
                [kinds[(i + size) % 4] for i in range(len(walk))],
                [1e3 * i**4 for i in range(len(walk))],
            )
        for term in terms:
            found.append(context(seeds, past, term))
            if needs.eligible:
                found.append(context(seeds, past, term, eligible=rng.random(n) < 0.4))
                found.append(context(seeds, past, term, eligible=np.zeros(n, np.bool_)))
    return found
