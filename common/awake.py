"""Whether this process has run all the time."""

import asyncio


class Awake:
    """Whether this process has run all the time: one that was stopped judges nobody as silent.

    What the others said meanwhile waits in its sockets and is yet to be read.

    Args:
        limit_s: the silence that is judged; the process must have run for so long.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._asked = self._since = asyncio.get_running_loop().time()

    def all_the_time(self) -> bool:
        """To be asked several times within the limit."""
        now = asyncio.get_running_loop().time()
        if now - self._asked > self._limit_s / 2:
            self._since = now
        self._asked = now
        return now - self._since > self._limit_s
