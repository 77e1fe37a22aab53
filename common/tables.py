"""The status of the pool as tables for people."""

from rich import box
from rich.console import Console, Group
from rich.table import Table

from common.messages import ApplicationStatus, DispatcherStatus, PoolStatus, WorkerStatus

# These stay whole on a narrow terminal: people copy them.
UNBROKEN = {"Id", "URL", "Pid", "State"}


def status_tables(status: PoolStatus) -> Group:
    """Dispatchers, workers and, when there are any, applications."""
    tables = [_dispatchers(status.dispatchers), _workers(status.workers)]
    return Group(*tables, *([_apps(status.apps)] if status.apps else []))


def _dispatchers(dispatchers: tuple[DispatcherStatus, ...]) -> Table:
    table = new_table("Dispatchers", "Id", "URL", "Pid", "Workers")
    for one in dispatchers:
        table.add_row(one.id, one.url, str(one.pid), str(one.workers))
    return table


def _workers(workers: tuple[WorkerStatus, ...]) -> Table:
    table = new_table(
        "Workers", "Id", "Host", "Pid", "State", "Busy", "Done", "Failed", "Moved"
    )
    for one in workers:
        counts = (one.tasks_done, one.tasks_failed, one.tasks_moved)
        slots = f"{one.slots_busy}/{one.slots}"
        table.add_row(one.id, one.host, str(one.pid), one.state, slots, *map(str, counts))
    return table


def _apps(apps: tuple[ApplicationStatus, ...]) -> Table:
    table = new_table("Applications", "Id", "Name", "User", "State", "Running", "Queued", "Done")
    for one in apps:
        counts = (one.running, one.queued, one.done)
        table.add_row(one.id, one.name, one.user, one.state, *map(str, counts))
    return table


def new_table(title: str, *columns: str) -> Table:
    """A table for `new_console`, narrow enough for 80 columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in UNBROKEN)
    return table


def refusals(status: PoolStatus) -> list[str]:
    """A sentence for each worker that does not serve an application."""
    return [
        f"{app.id} is not served by worker {worker}: {reason}"
        for app in status.apps
        for worker, reason in app.refused.items()
    ]


def new_console(*, errors: bool = False) -> Console:
    """Prints as it is told: no words of ours are markup, and no ids are coloured."""
    return Console(stderr=errors, markup=False, highlight=False)
