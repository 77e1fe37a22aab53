"""`python -m dispatcher`: one dispatcher, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from common.logs import configure
from common.service import main
from common.settings import Home, Settings
from dispatcher.service import DispatcherService


def dispatcher(
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on, 0 for any")] = None,
    log_file: Annotated[Path | None, typer.Option(help="log here, else to stderr")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="written when it answers")] = None,
) -> None:
    """Runs a dispatcher: workers attach to it, agents send it tasks."""

    async def run() -> None:
        home = Home.from_environment()
        settings = Settings.load(home.conf, dispatcher_host=host, dispatcher_port=port)
        configure(settings.log_level, log_file)
        await DispatcherService(settings, home).run(ready_file)

    main(run)


if __name__ == "__main__":
    typer.run(dispatcher)
