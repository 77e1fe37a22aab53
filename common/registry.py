"""The registry in Redis, and every key of it.

| key | type | owner | expiry |
|---|---|---|---|
| `spark-proxy:dispatcher:<id>` | string, JSON of `Entry` | that dispatcher | 3 heartbeats |

Redis knows dispatchers only; workers never see it.
"""

from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from common.errors import EnvironmentProblem, UnreachableError
from common.security import redis_password
from common.settings import Home, Settings

PREFIX = "spark-proxy:dispatcher:"
# Where a pool without redis.host has its Redis.
EMBEDDED_REDIS_HOST = "127.0.0.1"
# A registration outlives two lost heartbeats.
EXPIRY_HEARTBEATS = 3
# A Redis that does not answer in this time is down: nobody waits longer for it.
TIMEOUT_S = 5.0


class Entry(BaseModel):
    """One dispatcher, as the registry knows it."""

    model_config = ConfigDict(frozen=True)

    id: str
    url: str
    version: str
    workers: int = 0


class Registry:
    """The dispatchers that are alive.

    Every call raises `UnreachableError` when Redis does not answer, and
    `EnvironmentProblem` when it refuses the password.
    """

    def __init__(self, settings: Settings, home: Home) -> None:
        host = settings.redis_host or EMBEDDED_REDIS_HOST
        self._address = f"Redis at {host}:{settings.redis_port}"
        self._expiry_ms = int(settings.heartbeat * EXPIRY_HEARTBEATS * 1000)
        self._redis = Redis(
            host=host,
            port=settings.redis_port,
            password=redis_password(settings, home).get_secret_value() or None,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            # Once more for a connection that Redis closed while idle; the default waits seconds.
            retry=Retry(NoBackoff(), 1),
        )

    async def register(self, entry: Entry) -> None:
        """Puts the dispatcher there, or keeps it there for three more heartbeats."""
        try:
            await self._redis.set(PREFIX + entry.id, entry.model_dump_json(), px=self._expiry_ms)
        except RedisError as error:
            raise self._translated(error) from error

    async def unregister(self, dispatcher_id: str) -> None:
        try:
            await self._redis.delete(PREFIX + dispatcher_id)
        except RedisError as error:
            raise self._translated(error) from error

    async def dispatchers(self) -> list[Entry]:
        """Those registered now, by id; an entry that is not one of ours is passed over."""
        try:
            keys = sorted([key async for key in self._redis.scan_iter(match=PREFIX + "*")])
            values = await self._redis.mget(keys) if keys else []
        except RedisError as error:
            raise self._translated(error) from error
        return [entry for value in values if (entry := _entry(value)) is not None]

    async def close(self) -> None:
        await self._redis.aclose()

    def _translated(self, error: RedisError) -> UnreachableError | EnvironmentProblem:
        # Redis answers NOAUTH as a plain response error when no password was given.
        refused = isinstance(error, AuthenticationError) or "NOAUTH" in str(error)
        if refused:
            return EnvironmentProblem(
                f"{self._address} refused the password", "Set redis.password in common.properties"
            )
        return UnreachableError(self._address, str(error))


def _entry(value: bytes | str | None) -> Entry | None:
    try:
        return Entry.model_validate_json(value) if value is not None else None
    except ValidationError:
        return None
