"""The dispatchers that an application is open at: found in Redis, opened, lost, opened again."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import httpx

from agent.driver import Driver
from agent.executors import Executors
from agent.link import DispatcherLink, OnEvent
from common.errors import EnvironmentProblem, RefusedError, UnreachableError
from common.logs import get_logger
from common.messages import Application, ApplicationHello
from common.registry import Entry, Registry
from common.settings import Settings

log = get_logger(__name__)
# How often the registry is looked at, and lost dispatchers are tried again.
LOOK_S = 1.0
# Executor ids that one opening of the application at a dispatcher may use up.
ID_BLOCK = 10_000


class Dispatchers:
    """Keeps an application open at every dispatcher there is.

    Args:
        on_event: told what a dispatcher says of executors.
        on_change: called when one is there, or gone.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        client: httpx.AsyncClient,
        driver: Driver,
        executors: Executors,
        on_event: OnEvent,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._client = client
        self._driver = driver
        self._executors = executors
        self._on_event = on_event
        self._on_change = on_change
        self._entries: dict[str, Entry] = {}
        self._unused_ids: dict[str, int] = {}
        self._unusable: dict[str, str] = {}
        self.links: dict[str, DispatcherLink] = {}
        self.registry_problem = ""
        """Why the registry cannot be read, empty while it can."""

    @property
    def slots(self) -> int:
        """Slots that they promise."""
        return sum(link.slots for link in self.links.values())

    async def find(self, application: Application, tasks: asyncio.TaskGroup) -> None:
        """Looks for dispatchers once, and serves those that are new."""
        await self._look()
        new = [entry for entry in self._entries.values() if entry.id not in self.links]
        opened = await asyncio.gather(*(self._open(entry, application) for entry in new))
        for link in opened:
            if link is not None:
                self.links[link.entry.id] = link
                tasks.create_task(self._serve(link))
                await self._on_change()

    async def keep_finding(self, application: Application, tasks: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.find(application, tasks)

    def ping(self) -> None:
        """Shows every dispatcher that this application lives."""
        for link in self.links.values():
            link.ping()

    async def close(self) -> None:
        """Says goodbye to all of them: the application is over."""
        await asyncio.gather(*(link.close() for link in self.links.values()))

    async def _look(self) -> None:
        try:
            entries = await self._registry.dispatchers()
            self.registry_problem = ""
        except (UnreachableError, EnvironmentProblem) as error:
            # Those who have found each other go on without it, and find each other again.
            self.registry_problem = str(error)
            return
        self._entries = {entry.id: entry for entry in entries}

    async def _open(self, entry: Entry, application: Application) -> DispatcherLink | None:
        first = self._unused_ids.pop(entry.id, 0)
        first = first or await self._driver.reserve_executor_ids(ID_BLOCK)
        hello = ApplicationHello(application=application, first_executor=first)
        limits = (self._settings.heartbeat, self._settings.frame_max_bytes)
        link = DispatcherLink(self._client, entry, hello, limits, self._on_event)
        try:
            await link.open()
        except (UnreachableError, RefusedError) as error:
            # 409 says that an opening with these ids has been, and is over.
            if not (isinstance(error, RefusedError) and error.status == HTTPStatus.CONFLICT):
                self._unused_ids[entry.id] = first
            if self._unusable.get(entry.id) != str(error):
                log.warning("dispatcher.unusable", dispatcher=entry.id, reason=str(error))
            self._unusable[entry.id] = str(error)
            return None
        self._unusable.pop(entry.id, None)
        return link

    async def _serve(self, link: DispatcherLink) -> None:
        reason = await link.run()
        log.warning("dispatcher.lost", dispatcher=link.entry.id, reason=reason)
        del self.links[link.entry.id]
        self._executors.way_lost(link)
        await self._on_change()
