"""A real dispatcher with a Redis of its own, and the streams of its workers and agents."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from common.frames import Frame, FrameDecoder, Kind
from common.messages import (
    AGENT_EVENT,
    WORKER_COMMAND,
    AgentEvent,
    ApplicationHello,
    ApplicationWelcome,
    ExecutorStarted,
    WorkerCommand,
    WorkerHello,
    WorkerWelcome,
)
from tests.services import ServiceProcess, redis_server, service

TOKEN = "token-of-the-tests"
PASSWORD = "password-of-the-tests"
# Short, so that an idle stream is pinged three times a second.
HEARTBEAT_S = 10.0
MAX_BODY = 4096
MAX_FRAME = 65536
TIMEOUT_S = 10.0
CUT_S = 2.0
M = TypeVar("M")


@dataclass
class Dispatcher:
    """A running dispatcher and a client that shows its token."""

    process: ServiceProcess
    redis_port: int
    client: httpx.Client

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def id(self) -> str:
        return self.process.identity["id"]

    def attach(self, hello: WorkerHello) -> WorkerWelcome:
        response = self.client.post("/workers", content=hello.model_dump_json())
        assert response.status_code == 200, response.text
        return WorkerWelcome.model_validate_json(response.content)

    def open(self, hello: ApplicationHello) -> ApplicationWelcome:
        response = self.client.post("/applications", content=hello.model_dump_json())
        assert response.status_code == 200, response.text
        return ApplicationWelcome.model_validate_json(response.content)

    def say_started(self, worker: str, stream: str, key: str, executor: int) -> int:
        message = ExecutorStarted(stream=stream, application=key, executor=executor, port=7)
        path = f"/workers/{worker}/executors"
        return self.client.post(path, content=message.model_dump_json()).status_code

    def refusal(self, method: str, path: str, **request: object) -> tuple[int, str]:
        """Status and reason of a request that is refused."""
        response = self.client.request(method, path, **request)  # type: ignore[arg-type]
        assert response.is_error, response.text
        return response.status_code, str(response.json()["detail"])

    def metrics(self) -> dict[str, float]:
        lines = self.client.get("/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@contextmanager
def dispatcher(folder: Path) -> Iterator[Dispatcher]:
    """A dispatcher that listens on a port of its own."""
    with redis_server(folder, PASSWORD) as port:
        configure(folder, redis_port=port)
        env = {"EXTERNAL_SPARK_CONF_DIR": str(folder)}
        arguments = ("--port", "0")
        with (
            service("dispatcher", *arguments, env=env, folder=folder, name="dispatcher") as process,
            client(process.url) as shown,
        ):
            yield Dispatcher(process, port, shown)


def configure(folder: Path, redis_port: int, password: str = PASSWORD, more: str = "") -> None:
    (folder / "common.properties").write_text(
        f"redis.port={redis_port}\nredis.password={password}\npool.token={TOKEN}\n"
        f"heartbeat={HEARTBEAT_S}\nmessage.max.bytes={MAX_BODY}\nframe.max.bytes={MAX_FRAME}\n"
        f"{more}\n"
    )


def client(url: str, token: str = TOKEN) -> httpx.Client:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)


class PushStream:
    """A response that goes on: what a dispatcher pushes to a worker or an agent."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks = response.iter_raw()
        self._decoder = FrameDecoder(MAX_FRAME)
        self._frames: list[Frame] = []

    def next(self, *, pings: bool = False) -> Frame:
        """The next frame; raises `StopIteration` when the stream has ended."""
        # Pings keep the read from running into the client's own limit.
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            while not self._frames:
                self._frames += self._decoder.feed(next(self._chunks))
            frame = self._frames.pop(0)
            if pings or frame.kind != Kind.PING:
                return frame
        raise AssertionError(f"nothing but pings in {TIMEOUT_S:g} s")

    def command(self) -> WorkerCommand:
        return self._first(WORKER_COMMAND.validate_json)

    def event(self) -> AgentEvent:
        return self._first(AGENT_EVENT.validate_json)

    def _first(self, parse: Callable[[bytes], M]) -> M:
        frame = self.next()
        assert frame.kind == Kind.CONTROL, frame
        return parse(frame.payload)

    def close(self) -> None:
        """Breaks the stream."""
        self._response.close()

    def has_ended(self) -> bool:
        """Reads on, past whatever still comes, until the stream ends."""
        try:
            while True:
                self.next()
        except StopIteration:
            return True


@contextmanager
def pushed(shown: httpx.Client, path: str, stream: str) -> Iterator[PushStream]:
    """Opens a stream; leaving the block breaks it."""
    with shown.stream("GET", path, params={"stream": stream}) as response:
        assert response.status_code == 200, response.read()
        yield PushStream(response)


class BodyStream:
    """A POST whose body goes on, as httpx sends one, but a chunk at a time."""

    def __init__(self, url: str, path: str, token: str = TOKEN) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), TIMEOUT_S)
        head = (
            f"POST {path} HTTP/1.1",
            f"Host: {address.netloc}",
            f"Authorization: Bearer {token}",
            "Transfer-Encoding: chunked",
        )
        self._socket.sendall("\r\n".join([*head, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self._socket.sendall(b"0\r\n\r\n")

    def answer(self) -> tuple[int, str]:
        """Status and body, which may come before the end of what is sent."""
        with http.client.HTTPResponse(self._socket, method="POST") as response:
            response.begin()
            return response.status, response.read().decode()

    def is_cut(self) -> bool:
        """Whether the other side has closed the connection, or is about to.

        It would close one that is idle anyhow, after 5 s.
        """
        self._socket.settimeout(CUT_S)
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        """Breaks the connection."""
        self._socket.close()

    def __enter__(self) -> "BodyStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
