"""What goes between a worker and Redis: commands and bytes a request, and while nothing is asked.

    python ops/bench/traffic.py [--seconds 3]

Example: `python ops/bench/traffic.py --seconds 2`; a minute. Redis' own counts (INFO stats) before
and after a closed loop of each kind of request, less what an idle worker asks for meanwhile. Bytes
are those of Redis' protocol, without TCP's.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import vitrine
from measure import LOAD_CORE, Server, closed_loop, record, require_wrk, stay_on
from redis import Redis
from shop import prepared, stores

SUBJECTS = {
    "pdp_similar": "similar",
    "pdp_similar, cold": "cold-0",
    "home_for_you": "for_you",
    "home_popular": "popular",
    "page of 4 pods": "page",
    "tracking": "tracking",
}


@dataclass(frozen=True)
class Count:
    commands: float
    to_redis: float  # bytes
    from_redis: float
    at: float

    @classmethod
    def of(cls, client: Redis) -> Count:
        stats: dict[str, Any] = client.info("stats")
        return cls(
            stats["total_commands_processed"],
            stats["total_net_input_bytes"],
            stats["total_net_output_bytes"],
            time.monotonic(),
        )

    def since(self, before: Count) -> Count:
        return Count(
            self.commands - before.commands,
            self.to_redis - before.to_redis,
            self.from_redis - before.from_redis,
            self.at - before.at,
        )

    def each(self, idle: Count, requests: int) -> dict[str, float]:
        """A request's part, without what would have gone over anyway."""
        share = self.at / idle.at if idle.at else 0.0
        return {
            name: round(max(getattr(self, name) - getattr(idle, name) * share, 0) / requests, 2)
            for name in ("commands", "to_redis", "from_redis")
        }


def measured(server: Server, client: Redis, folder: Path, seconds: float) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    before = Count.of(client)
    time.sleep(max(seconds, 3.0))
    idle = Count.of(client).since(before)
    for name, file in SUBJECTS.items():
        closed_loop(server, folder / file, seconds=seconds)  # what is kept is filled
        before = Count.of(client)
        requests = closed_loop(server, folder / file, seconds=seconds, start=9_001).requests
        time.sleep(1)  # tracking tells Redis a little later
        rows[name] = Count.of(client).since(before).each(idle, requests)
    rows["idle worker, a second"] = {
        name: round(getattr(idle, name) / idle.at, 2)
        for name in ("commands", "to_redis", "from_redis")
    }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="Of each kind of request.")
    given = parser.parse_args()
    require_wrk()
    stay_on(LOAD_CORE)
    with stores() as running:
        shop = prepared(running)
        with vitrine(running) as server, Redis.from_url(running.redis_url) as client:
            rows = measured(server, client, shop.paths, given.seconds)
    print(f"{'':<24} {'commands':>9} {'B to Redis':>11} {'B from Redis':>13}")
    for name, row in rows.items():
        print(
            f"{name:<24} {row['commands']:>9.2f} {row['to_redis']:>11.0f}"
            f" {row['from_redis']:>13.0f}"
        )
    record({}, traffic=rows)


if __name__ == "__main__":
    main()
