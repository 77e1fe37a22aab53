"""The agent's HTTP side: where workers send task states and results."""

from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request
from prometheus_client import CollectorRegistry

from common.frames import Frame, Kind
from common.messages import ResultsHello, ResultsWelcome
from common.security import new_token
from common.settings import Settings
from common.web import CLOSE, frames_of, new_app, token_is

RESULT_KINDS = frozenset({Kind.STATUS, Kind.REPLY})


def new_results_app(
    settings: Settings,
    token: str,
    metrics: CollectorRegistry,
    deliver: Callable[[bytes], None],
) -> FastAPI:
    """The application's own endpoint.

    Args:
        deliver: hands frames to the driver JVM, which believes what comes from its executors.
    """
    app = new_app("agent", token_is(token), settings.message_max_bytes, metrics)
    streams: dict[str, int] = {}

    @app.post("/results")
    async def open_(hello: ResultsHello) -> ResultsWelcome:
        stream = new_token()
        streams[stream] = hello.executor
        return ResultsWelcome(stream=stream)

    @app.post("/results/{stream}", status_code=204)
    async def results(stream: str, request: Request) -> None:
        """States as they appear: the body goes on for as long as the executor lives."""
        executor = streams.pop(stream, None)
        if executor is None:
            raise HTTPException(409, "this stream is over; open another", CLOSE)
        async for frames in frames_of(request, settings.frame_max_bytes):
            states = [frame for frame in frames if frame.kind != Kind.PING]
            for frame in states:
                _check(frame, executor)
            if states:
                deliver(b"".join([frame.raw for frame in states]))

    return app


def _check(frame: Frame, executor: int) -> None:
    if frame.executor != executor or frame.kind not in RESULT_KINDS:
        raise HTTPException(
            422,
            f"executor {executor} sent a frame of kind {frame.kind} for {frame.executor}",
            CLOSE,
        )
