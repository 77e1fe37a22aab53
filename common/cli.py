"""The command line: `spark-proxy`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.console import FAILURE_EXIT, run
from common.install import install_into, uninstall_from
from common.messages import PoolStatus
from common.pool_status import ask_all, drain_worker, registered
from common.settings import Home, Settings
from common.tables import new_console, refusals, status_tables
from common.version import VERSION

app = typer.Typer(
    help="Runs ordinary Spark jobs, unchanged, on external workers.",
    no_args_is_help=True,
    add_completion=False,
)
# The service's own command line reads all of its options, --help among them.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
SparkHomeArgument = Annotated[
    Path | None,
    typer.Argument(metavar="SPARK_HOME", help="default: $SPARK_HOME, else the installed Spark"),
]


def _become(module: str, arguments: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


@app.command(context_settings=PASS_ON)
def dispatcher(context: typer.Context) -> None:
    """Run a dispatcher in the foreground."""
    _become("dispatcher", context.args)


@app.command(context_settings=PASS_ON)
def worker(context: typer.Context) -> None:
    """Run a worker in the foreground."""
    _become("worker", context.args)


@app.command(context_settings=PASS_ON)
def redis(context: typer.Context) -> None:
    """Run the embedded Redis in the foreground."""
    _become("common.redis_server", context.args)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Show dispatchers, workers and applications."""
    home = Home.from_environment()
    pool = asyncio.run(_pool_status(Settings.load(home.conf), home))
    if as_json:
        print(pool.model_dump_json(indent=2))
        return
    console = new_console()
    console.print(status_tables(pool))
    for sentence in refusals(pool):
        console.print(sentence)


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(help="id of the worker, as status shows it")],
) -> None:
    """Let a worker finish what it runs, and leave."""
    home = Home.from_environment()
    print(asyncio.run(drain_worker(worker, Settings.load(home.conf), home)))


async def _pool_status(settings: Settings, home: Home) -> PoolStatus:
    """What answers; what does not is told on standard error, and fails if it is all."""
    urls = await registered(settings, home)
    answers = await ask_all(urls, settings, home)
    for error in answers.silent:
        print(error, file=sys.stderr)
    if urls and not answers.status.dispatchers:
        raise typer.Exit(FAILURE_EXIT)
    return answers.status


@app.command()
def install(spark_home: SparkHomeArgument = None) -> None:
    """Hook a Spark installation: its jobs then run on the pool."""
    print(install_into(spark_home, Home.from_environment()))


@app.command()
def uninstall(spark_home: SparkHomeArgument = None) -> None:
    """Restore a Spark installation as it was before."""
    print(uninstall_from(spark_home, Home.from_environment()))


@app.command()
def version() -> None:
    """Print the version."""
    print(VERSION)


def main() -> None:
    """The entry point of `spark-proxy`."""
    run(app)


if __name__ == "__main__":
    main()
