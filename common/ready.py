"""`python -m common.ready`: waits until the pool of `conf/hosts` works together."""

import asyncio
import time

import typer

from common.console import run
from common.errors import SparkProxyError
from common.hosts import Hosts
from common.messages import PoolStatus, WorkerState
from common.pool_status import Answers, ask_all
from common.settings import Home, Settings
from common.tables import new_console, status_tables

# Every service has answered before; what is left is that workers attach.
TIMEOUT_S = 60.0
POLL_S = 0.2


class NotReadyError(SparkProxyError):
    """Something of the pool is missing."""

    def __init__(self, missing: list[str], logs: str) -> None:
        super().__init__(missing, logs)
        self.missing = missing
        self.logs = logs

    def __str__(self) -> str:
        return f"The pool is not complete: {'; '.join(self.missing)}. The logs are in {self.logs}"


async def wait_until_ready(hosts: Hosts, settings: Settings, home: Home) -> PoolStatus:
    """Returns when all dispatchers answer and as many workers are attached as were started.

    Raises:
        NotReadyError: after `TIMEOUT_S`, with what is missing.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        answers = await ask_all(hosts.urls, settings, home)
        missing = _missing(answers, len(hosts.workers))
        if not missing:
            return answers.status
        if time.monotonic() > deadline:
            raise NotReadyError(missing, str(home.logs))
        await asyncio.sleep(POLL_S)


def _missing(answers: Answers, workers: int) -> list[str]:
    attached = sum(worker.state is WorkerState.ATTACHED for worker in answers.status.workers)
    missing = [str(error) for error in answers.silent]
    if attached < workers:
        missing.append(f"{attached} of {workers} workers are attached")
    return missing


def main() -> None:
    """Waits, and shows the dispatchers and workers."""
    home = Home.from_environment()
    settings = Settings.load(home.conf)
    hosts = Hosts.load(settings, home)
    status = asyncio.run(wait_until_ready(hosts, settings, home))
    console = new_console()
    console.print("The pool is ready:", ", ".join(hosts.urls), soft_wrap=True)
    console.print(status_tables(status))


if __name__ == "__main__":
    run(lambda: typer.run(main))
