"""Faults on purpose: how tests see what is promised for a bad network and a sudden death.

Off unless `EXTERNAL_SPARK_FAULTS` is set in the environment of a service, for example to
`results=cut:0.1,double:0.2;calls=refuse:0.3`: points, and at each the faults with their
probabilities. `EXTERNAL_SPARK_FAULTS_SEED` makes the dice fall alike in each run.

| point | where | faults |
|---|---|---|
| `calls` | before a short request is sent | `refuse`, `delay` |
| `tasks` | before an agent's frames for a dispatcher are sent | all of `Fault` but `refuse` |
| `pushed` | when frames of a dispatcher have arrived | the same |
| `results` | before a worker's frames for an agent are sent | the same |
| `deliver` | between an agent's taking of results and the driver JVM | `die` |

A stream's faults hit a chunk, one or several frames that travel together.
"""

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator
from enum import StrEnum

from common.errors import EnvironmentProblem, UnreachableError

VARIABLE = "EXTERNAL_SPARK_FAULTS"
SEED_VARIABLE = "EXTERNAL_SPARK_FAULTS_SEED"
DELAY_S = 0.5
EXAMPLE = "results=cut:0.1,double:0.2;calls=refuse:0.3"


class Fault(StrEnum):
    DROP = "drop"  # it never arrives
    DELAY = "delay"  # it comes later, and all that follows too
    DOUBLE = "double"  # it comes twice
    CUT = "cut"  # half of it comes, then the connection breaks
    REFUSE = "refuse"  # there is no connection
    DIE = "die"  # the process ends at this very place, as by SIGKILL


class Faults:
    """What goes wrong in this process, and how often.

    Raises:
        EnvironmentProblem: the text does not say that.
    """

    def __init__(self, text: str = "", seed: str = "") -> None:
        self._chances: dict[str, dict[Fault, float]] = {}
        self._dice = random.Random(seed or None)
        for part in filter(None, text.split(";")):
            if (match := _PART.fullmatch(part.strip())) is None:
                raise EnvironmentProblem(
                    f"{VARIABLE}: {part!r} is not valid", f"Expected is, for example, {EXAMPLE}"
                )
            pairs = (fault.split(":") for fault in match["faults"].split(","))
            self._chances[match["point"]] = {Fault(kind): float(p) for kind, p in pairs}

    def hits(self, point: str, *faults: Fault) -> Fault | None:
        """Which of these faults happens now, if any."""
        chances = self._chances.get(point, {})
        return next((f for f in faults if self._dice.random() < chances.get(f, 0.0)), None)

    async def call(self, url: str) -> None:
        """Raises `UnreachableError` instead of a request, or makes it wait."""
        if self.hits("calls", Fault.REFUSE):
            raise UnreachableError(url, "refused on purpose")
        if self.hits("calls", Fault.DELAY):
            await asyncio.sleep(DELAY_S)

    async def stream(self, point: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The chunks, as far as they get through."""
        async for chunk in chunks:
            match self.hits(point, Fault.DIE, Fault.CUT, Fault.DROP, Fault.DOUBLE, Fault.DELAY):
                case Fault.DIE:
                    self.die()
                case Fault.CUT:
                    yield chunk[: len(chunk) // 2]
                    raise UnreachableError(point, "cut on purpose")
                case Fault.DROP:
                    continue
                case Fault.DOUBLE:
                    yield chunk
                case Fault.DELAY:
                    await asyncio.sleep(DELAY_S)
            yield chunk

    def die(self) -> None:
        os._exit(1)


_FAULT = rf"({'|'.join(Fault)}):(0(\.\d+)?|1)"
_PART = re.compile(
    rf"(?P<point>calls|tasks|pushed|results|deliver)=(?P<faults>{_FAULT}(,{_FAULT})*)"
)
active: Faults | None = None


def switch_on() -> None:
    """Reads the environment: called once, by the process's `main`."""
    global active
    if text := os.environ.get(VARIABLE):
        active = Faults(text, os.environ.get(SEED_VARIABLE, ""))


def on(point: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks themselves, unless faults are asked for."""
    return chunks if active is None else active.stream(point, chunks)
