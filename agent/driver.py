"""The driver JVM that this agent belongs to: control by py4j, frames by a loopback socket."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from py4j.java_gateway import GatewayParameters, JavaGateway
from py4j.protocol import Py4JError

from common.channel import FrameChannel, connect
from common.errors import SparkProxyError
from common.frames import Frame
from common.messages import DriverApplication


class DriverError(SparkProxyError):
    """The driver JVM refused a call, or is gone."""

    def __init__(self, call: str, problem: str) -> None:
        super().__init__(call, problem)
        self.call = call
        self.problem = problem

    def __str__(self) -> str:
        return f"the driver did not take {self.call}: {self.problem}"


@dataclass(frozen=True)
class DriverAddress:
    """Where the driver JVM listens, and the token that it wants to see."""

    token: str
    gateway_port: int
    frames_port: int
    results_token: str
    """What workers show when they bring results."""
    results_port: int
    """Where an agent before this one took them, 0 for the first one."""

    @classmethod
    def from_stdin(cls) -> "DriverAddress":
        """The one line that the driver JVM writes to its agent's standard input."""
        token, gateway_port, frames_port, results_token, results_port = (
            sys.stdin.readline().split()
        )
        return cls(token, int(gateway_port), int(frames_port), results_token, int(results_port))


class Driver:
    """Calls into the driver JVM. Each takes a thread, for py4j waits for the answer.

    Every call raises `DriverError`.
    """

    def __init__(self, address: DriverAddress, max_frame_bytes: int) -> None:
        self._address = address
        self._gateway = JavaGateway(
            gateway_parameters=GatewayParameters(
                address="127.0.0.1",
                port=address.gateway_port,
                auth_token=address.token,
                auto_convert=False,
            )
        )
        self._max_frame_bytes = max_frame_bytes
        self._channel: FrameChannel | None = None
        self.gone = asyncio.Event()

    async def connect(self, on_frames: Callable[[list[Frame]], None]) -> None:
        """Opens the frame channel; `gone` is set when it ends."""
        self._channel = FrameChannel(self._max_frame_bytes, on_frames, self.gone.set)
        await connect(self._address.frames_port, self._address.token, self._channel)

    def send(self, data: bytes) -> None:
        """Hands frames to the JVM."""
        if self._channel is not None:
            self._channel.send(data)

    async def application(self) -> DriverApplication:
        """What this driver runs; waits until its scheduler has started."""
        return DriverApplication.model_validate_json(await self._call("application"))

    async def reserve_executor_ids(self, count: int) -> int:
        """The first of `count` ids that nobody else gets."""
        return int(await self._call("reserveExecutorIds", count))

    async def promise(self, slots: int) -> None:
        """Tells Spark how many slots it can count on; the first call lets jobs in."""
        await self._call("promise", slots)

    async def listens(self, port: int) -> None:
        """Tells where this agent takes results, for the one that may have to follow it."""
        await self._call("listens", port)

    async def register_executor(
        self, executor: int, host: str, port: int, slots: int, inside: bool
    ) -> bool:
        """An executor is ready, or reached by another way; false where it was removed before."""
        return bool(await self._call("registerExecutor", executor, host, port, slots, inside))

    async def drain_executor(self, executor: int, reason: str) -> None:
        """Spark gives it nothing new, and has it move its blocks."""
        await self._call("drainExecutor", executor, reason)

    async def remove_executor(self, executor: int, reason: str, by_application: bool) -> None:
        await self._call("removeExecutor", executor, reason, by_application)

    async def fail_jobs(self, reason: str) -> None:
        await self._call("failJobs", reason)

    async def warn(self, message: str) -> None:
        """Shows the user a sentence, in the driver's log."""
        await self._call("warn", message)

    async def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        await asyncio.to_thread(self._gateway.close)

    async def _call(self, name: str, *arguments: Any) -> Any:
        try:
            call = asyncio.to_thread(getattr(self._gateway.entry_point, name), *arguments)
            # Whoever no longer waits for it, the driver has to hear of it.
            return await asyncio.shield(call)
        except (Py4JError, OSError) as error:
            raise DriverError(name, str(error).splitlines()[0]) from error
