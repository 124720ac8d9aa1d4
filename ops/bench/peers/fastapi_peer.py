"""The usual way to build it: FastAPI, uvicorn, redis-py and pydantic, doing what `pdp_similar`
does. 200 candidates of the seed come from Redis, five rules choose among them, 20 items' documents
come from Redis, and pydantic makes the answer.

    BENCH_REDIS=redis://127.0.0.1:6379/1 python peers/fastapi_peer.py PORT
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections import Counter
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel
from redis.asyncio import Redis

RULES: dict[str, Any] = json.loads(os.environ["BENCH_RULES"])
redis = Redis.from_url(os.environ["BENCH_REDIS"], protocol=3)
app = FastAPI()


class Strategy(BaseModel):
    id: str


class Result(BaseModel):
    value: str
    data: dict[str, Any]
    labels: dict[str, Any] = {}
    matched_terms: list[str] = []
    is_slotted: bool = False
    strategy: Strategy
    reason: str


class Pod(BaseModel):
    id: str
    display_name: str


class Listed(BaseModel):
    results: list[Result]
    total_num_results: int
    pod: Pod


class Answer(BaseModel):
    request: dict[str, Any]
    response: Listed
    result_id: str


def choose(candidates: list[list[Any]], want: int) -> list[list[Any]]:
    """The five rules of ops/bench/shop.py, on
    [id, brand, department, type, price, reason, strategy].

    Positions count what no rule left out.
    """
    competing: list[tuple[float, int, list[Any]]] = []
    position = 0
    for candidate in candidates:
        _, brand, department, _, price, _, _ = candidate
        if department == RULES["exclude_department"]:
            continue
        if price is not None and price >= RULES["exclude_price_from"]:
            continue
        position += 1
        place = float(position)
        if brand == RULES["boost_brand"]:
            place /= 2 ** (RULES["boost_strength"] / 2)
        if department == RULES["bury_department"]:
            place *= 2 ** (RULES["bury_strength"] / 2)
        competing.append((place, position, candidate))
    competing.sort(key=lambda entry: entry[:2])
    listed: list[list[Any]] = []
    waiting: list[list[Any]] = []
    seen: Counter[str] = Counter()
    for _, _, candidate in competing:
        if len(listed) < RULES["cap_first"]:
            kind = candidate[3]
            if kind is not None and seen[kind] >= RULES["cap_count"]:
                waiting.append(candidate)
                continue
            seen[kind] += 1
            listed.append(candidate)
        else:
            break
    taken = {id(candidate) for candidate in listed}
    rest = [candidate for _, _, candidate in competing if id(candidate) not in taken]
    return (listed + rest)[:want]


@app.get("/recommendations/v1/pods/pdp_similar")
async def pdp_similar(
    key: str,
    item_id: str,
    num_results: int = Query(default=20, ge=1, le=100),
) -> Answer:
    if key != os.environ["BENCH_KEY"]:
        raise HTTPException(401, "unknown key")
    raw = await redis.get(f"similar:{item_id}")
    chosen = choose(json.loads(raw), num_results) if raw else []
    documents = await redis.mget([f"item:{c[0]}" for c in chosen]) if chosen else []
    results = []
    for candidate, document in zip(chosen, documents, strict=True):
        item = json.loads(document)
        results.append(
            Result(
                value=item["value"],
                data=item["data"],
                strategy=Strategy(id=candidate[6]),
                reason=candidate[5],
            )
        )
    return Answer(
        request={"pod_id": "pdp_similar", "item_id": item_id, "num_results": num_results},
        response=Listed(
            results=results,
            total_num_results=len(results),
            pod=Pod(id="pdp_similar", display_name="Similar products"),
        ),
        result_id=uuid.uuid4().hex,
    )


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False,
        loop="uvloop", http="httptools", backlog=4096,
    )  # fmt: skip
