"""PostgreSQL and Redis started by ourselves, for the demo and the tests.

    with EmbeddedServers(Path(".vitrine")) as servers:
        servers.database_url, servers.database_owner_url, servers.redis_url

Servers found on the PATH are preferred, else those inside the wheels of `vitrine[embedded]` run;
either way the same code starts them. They listen on Unix sockets only, in a directory that only
the caller's account may enter.
"""

from app.embedded.binaries import EmbeddedError
from app.embedded.postgres import APP_ROLE, OWNER_ROLE, EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.embedded.servers import EmbeddedServers
from app.embedded.stores import StoreUrls, open_stores

__all__ = [
    "APP_ROLE",
    "OWNER_ROLE",
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "EmbeddedServers",
    "StoreUrls",
    "open_stores",
]
