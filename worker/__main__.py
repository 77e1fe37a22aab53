"""`python -m worker`: one worker, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from common.logs import configure
from common.service import main
from common.settings import Home, Settings
from worker.service import WorkerService


def worker(
    slots: Annotated[int | None, typer.Option(help="tasks at a time; default: cores")] = None,
    memory_mb: Annotated[int | None, typer.Option(help="memory lent, in MB")] = None,
    host: Annotated[str | None, typer.Option(help="name under which others reach it")] = None,
    port: Annotated[int | None, typer.Option(help="port of its own page, 0 for any")] = None,
    dispatcher: Annotated[
        list[str] | None, typer.Option(help="URL of a dispatcher; may be repeated")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="log here, else to stderr")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="written when it answers")] = None,
) -> None:
    """Runs a worker: lends this machine's slots to the pool."""

    async def run() -> None:
        home = Home.from_environment()
        settings = Settings.load(
            home.conf,
            worker_slots=slots,
            worker_memory_mb=memory_mb,
            worker_host=host,
            worker_port=port,
            dispatcher_urls=tuple(dispatcher) if dispatcher else None,
        )
        configure(settings.log_level, log_file)
        await WorkerService(settings, home).run(ready_file)

    main(run)


if __name__ == "__main__":
    typer.run(worker)
