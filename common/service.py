"""The life of a service: startup, loop, shutdown; and its HTTP server."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import NoReturn

import uvicorn
import uvloop
from fastapi import FastAPI

from common import faults
from common.console import run
from common.errors import EnvironmentProblem

# Streams never end by themselves: at shutdown they get this long to see the end.
DRAIN_S = 1


class _Server(uvicorn.Server):
    """Signals are the service's business, not the HTTP server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves one application on one address.

    Raises:
        EnvironmentProblem: the address is in use or not ours; raised on construction.
    """

    def __init__(self, app: FastAPI, host: str, port: int, key: str) -> None:
        self._socket = _bind(host, port, key)
        self.port: int = self._socket.getsockname()[1]
        # An address that means "all of them" is nothing that others can call.
        reachable = socket.getfqdn() if host in {"0.0.0.0", "::"} else host
        self.url = f"http://{reachable}:{self.port}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._server = _Server(config)

    async def serve(self) -> None:
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        self._server.should_exit = True


def _bind(host: str, port: int, key: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise EnvironmentProblem(
            f"Cannot listen on {host}:{port}: {error.strerror}", f"Set {key} to another"
        ) from error
    return listener


class Service(ABC):
    """A process of ours."""

    server: HttpServer
    interruptible = True
    """Whether SIGINT ends it; not where a terminal sends that to somebody else as well."""

    @abstractmethod
    async def startup(self) -> None:
        """Makes the service ready; what goes wrong here ends the process."""

    @abstractmethod
    async def loop(self) -> None:
        """Works until it is cancelled; returning ends the service."""

    async def farewell(self) -> None:  # noqa: B027 - not everybody has something to say
        """Says goodbye while `loop` still runs; only when somebody asked for the end."""

    @abstractmethod
    async def shutdown(self) -> None:
        """Ends what `startup` and `loop` began; bounded in time."""

    def identity(self) -> dict[str, object]:
        """What the ready file says."""
        return {"url": self.server.url, "pid": os.getpid()}

    async def run(self, ready_file: Path | None = None) -> None:
        """From startup to shutdown.

        SIGTERM asks for the end, with a farewell that may take its time; a second one, and
        SIGINT, want it at once.
        """
        ask, insist = asyncio.Event(), asyncio.Event()

        def terminate() -> None:
            (insist if ask.is_set() else ask).set()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        interrupt = insist.set if self.interruptible else lambda: None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        serving: asyncio.Task[None] | None = None
        try:
            await self.startup()
            # Whoever was faster waits at the socket until here.
            serving = asyncio.create_task(self.server.serve())
            if ready_file is not None:
                _write_whole(ready_file, json.dumps(self.identity()))
            await first(self.loop(), self._asked(ask), insist.wait(), until=serving)
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
            await self.shutdown()
            self.server.stop()
            if serving is not None:
                await asyncio.gather(serving, return_exceptions=True)

    async def _asked(self, ask: asyncio.Event) -> None:
        await ask.wait()
        await self.farewell()


async def first(*work: Awaitable[object], until: "asyncio.Task[None] | None" = None) -> None:
    """Returns, or raises, with the first that ends; the others are cancelled.

    Args:
        until: ends it too, and is left alone.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    also = {until} if until is not None else set()
    try:
        done, _ = await asyncio.wait({*tasks, *also}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _write_whole(path: Path, text: str) -> None:
    """Readers see the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.replace(path)


def main(work: Callable[[], Coroutine[object, object, None]]) -> NoReturn:
    """Runs a service to its end, and ends the process as our commands do."""

    def service() -> None:
        faults.switch_on()
        uvloop.run(work())

    run(service)
