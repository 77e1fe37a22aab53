"""The agent's HTTP side: where workers send task states and results."""

from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request
from prometheus_client import CollectorRegistry

from agent.executors import Executors
from common import faults
from common.faults import Fault
from common.frames import Frame, Kind, next_number
from common.messages import ResultsHello, ResultsWelcome
from common.security import new_token
from common.settings import Settings
from common.web import CLOSE, frames_of, new_app, not_silent, token_is

RESULT_KINDS = frozenset({Kind.STATUS, Kind.REPLY})


def new_results_app(
    settings: Settings,
    token: str,
    metrics: CollectorRegistry,
    deliver: Callable[[bytes], None],
    executors: Executors,
) -> FastAPI:
    """The application's own endpoint.

    Args:
        deliver: hands frames to the driver JVM, which believes what comes from its executors.
        executors: told which of them are heard of.
    """
    app = new_app("agent", token_is(token), settings.message_max_bytes, metrics)
    streams = _Streams()

    @app.post("/results")
    async def open_(hello: ResultsHello) -> ResultsWelcome:
        _check_living(executors, hello.executor)
        stream = streams.open(hello)
        return ResultsWelcome(stream=stream, heartbeat_s=settings.heartbeat)

    @app.post("/results/{stream}", status_code=204)
    async def results(stream: str, request: Request) -> None:
        """States as they appear: the body goes on for as long as the executor lives."""
        executor = streams.take(stream)
        executors.stream_opened(executor)
        try:
            last = 0
            arriving = frames_of(request, settings.frame_max_bytes)
            async for frames in not_silent(arriving, settings.heartbeat):
                _check_living(executors, executor)
                executors.heard(executor)
                for frame in frames:
                    last = _check(frame, executor, last)
                if faults.active is not None and faults.active.hits("deliver", Fault.DIE):
                    faults.active.die()
                if frames:
                    deliver(b"".join([frame.raw for frame in frames]))
        finally:
            executors.stream_closed(executor)

    return app


class _Streams:
    """The streams that were opened and not used yet. The same opening is answered alike."""

    def __init__(self) -> None:
        self._openings: dict[int, tuple[int, str]] = {}
        self._unused: dict[str, int] = {}

    def open(self, hello: ResultsHello) -> str:
        opening, stream = self._openings.get(hello.executor, (0, ""))
        if hello.opening < opening:
            raise HTTPException(409, "a later opening of this stream is there already", CLOSE)
        if hello.opening > opening:
            self._unused.pop(stream, None)
            stream = new_token()
            self._openings[hello.executor] = hello.opening, stream
            self._unused[stream] = hello.executor
        return stream

    def take(self, stream: str) -> int:
        executor = self._unused.pop(stream, None)
        if executor is None:
            raise HTTPException(409, "this stream is over; open another", CLOSE)
        return executor


def _check_living(executors: Executors, executor: int) -> None:
    if executors.is_removed(executor):
        raise HTTPException(410, f"executor {executor} was removed from its driver", CLOSE)


def _check(frame: Frame, executor: int, last: int) -> int:
    """Returns the number of the last numbered frame of this stream, 0 before the first one."""
    if frame.executor != executor or frame.kind not in RESULT_KINDS | {Kind.ACK}:
        raise HTTPException(
            422,
            f"executor {executor} sent a frame of kind {frame.kind} for {frame.executor}",
            CLOSE,
        )
    if frame.kind == Kind.ACK:
        return last
    # A stream starts wherever the driver's confirmations have come to, and leaves nothing out.
    if last:
        next_number(last, frame)
    return max(last, frame.sequence)
