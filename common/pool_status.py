"""The status of the pool: what each dispatcher knows, read and merged."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from common.client import call, new_client
from common.errors import EnvironmentProblem, RefusedError, UnreachableError
from common.messages import (
    PRESENT,
    ApplicationState,
    ApplicationStatus,
    DispatcherStatus,
    PoolStatus,
    WorkerStatus,
)
from common.registry import Registry
from common.security import pool_token
from common.settings import Home, Settings


@dataclass(frozen=True)
class Answers:
    """What the dispatchers said."""

    status: PoolStatus
    silent: tuple[UnreachableError | RefusedError, ...]
    """Of each dispatcher that gave no status: why."""


async def registered(settings: Settings, home: Home) -> list[str]:
    """The URLs of the dispatchers in Redis.

    Raises:
        EnvironmentProblem: Redis does not answer, or refuses the password.
    """
    registry = Registry(settings, home)
    try:
        return [entry.url for entry in await registry.dispatchers()]
    except UnreachableError as error:
        raise EnvironmentProblem(
            str(error), "Start the pool (sbin/start-all.sh), or set redis.host and redis.port"
        ) from error
    finally:
        await registry.close()


async def ask_all(urls: Iterable[str], settings: Settings, home: Home) -> Answers:
    """The merged status of these dispatchers; one that is silent hides no other."""
    async with new_client(pool_token(settings, home)) as client:
        answers = await asyncio.gather(*(_ask(client, url) for url in urls))
    told = [answer for answer in answers if isinstance(answer, PoolStatus)]
    silent = tuple(answer for answer in answers if not isinstance(answer, PoolStatus))
    return Answers(merged(told), silent)


async def drain_worker(worker: str, settings: Settings, home: Home) -> str:
    """Tells the dispatcher that has this worker to let it go; returns what is going to happen.

    Raises:
        RefusedError: no dispatcher has it.
    """
    answers = await ask_all(await registered(settings, home), settings, home)
    urls = {dispatcher.id: dispatcher.url for dispatcher in answers.status.dispatchers}
    for one in answers.status.workers:
        if one.id == worker and one.state in PRESENT:
            async with new_client(pool_token(settings, home)) as client:
                await call(client, "POST", f"{urls[one.dispatcher]}/workers/{worker}/drain")
            return (
                f"{worker} takes no new task; it leaves when what it runs is done "
                f"({one.slots_busy} of {one.slots} slots are busy), or when its limit is over"
            )
    known = ", ".join(one.id for one in answers.status.workers if one.state in PRESENT) or "none"
    raise RefusedError("the pool", 404, f"no worker {worker} is attached; those there: {known}")


async def _ask(
    client: httpx.AsyncClient, url: str
) -> PoolStatus | UnreachableError | RefusedError:
    try:
        return PoolStatus.model_validate_json(await call(client, "GET", f"{url}/status"))
    except (UnreachableError, RefusedError) as error:
        return error
    except ValidationError:
        return RefusedError(f"{url}/status", 200, "no status of ours; is that a dispatcher?")


def merged(parts: Iterable[PoolStatus]) -> PoolStatus:
    """One status of several: each worker once, and each application once, with its sums."""
    dispatchers: dict[str, DispatcherStatus] = {}
    workers: dict[str, WorkerStatus] = {}
    apps: dict[str, ApplicationStatus] = {}
    for part in parts:
        dispatchers |= {dispatcher.id: dispatcher for dispatcher in part.dispatchers}
        for worker in part.workers:
            # One that moved is attached here, and lost or gone where it was before.
            if worker.id not in workers or worker.state in PRESENT:
                workers[worker.id] = worker
        for app in part.apps:
            apps[app.key] = _added(apps[app.key], app) if app.key in apps else app
    return PoolStatus(
        dispatchers=tuple(dispatchers.values()),
        workers=tuple(workers.values()),
        apps=tuple(apps.values()),
    )


def _added(one: ApplicationStatus, other: ApplicationStatus) -> ApplicationStatus:
    states = (one.state, other.state)
    # The enum's order is not its rank: what runs anywhere runs.
    rank = (ApplicationState.RUNNING, ApplicationState.WAITING, ApplicationState.FINISHED)
    return one.model_copy(
        update={
            "state": min(states, key=rank.index),
            "running": one.running + other.running,
            "queued": one.queued + other.queued,
            "done": one.done + other.done,
            "failed": one.failed + other.failed,
            "refused": one.refused | other.refused,
        }
    )
