"""The status of the pool as tables for people."""

from rich.console import Console, Group
from rich.table import Table

from common.messages import ApplicationStatus, DispatcherStatus, PoolStatus, WorkerStatus


def status_tables(status: PoolStatus) -> Group:
    """Dispatchers, workers and applications."""
    return Group(
        _dispatchers(status.dispatchers), _workers(status.workers), _apps(status.apps)
    )


def _dispatchers(dispatchers: tuple[DispatcherStatus, ...]) -> Table:
    table = _table("Dispatchers", "Id", "URL", "Pid", "Workers")
    for one in dispatchers:
        table.add_row(one.id, one.url, str(one.pid), str(one.workers))
    return table


def _workers(workers: tuple[WorkerStatus, ...]) -> Table:
    table = _table(
        "Workers", "Id", "Host", "Pid", "State", "Slots busy", "Done", "Failed", "Moved", "Apps"
    )
    for one in workers:
        counts = (one.tasks_done, one.tasks_failed, one.tasks_moved, len(one.apps))
        slots = f"{one.slots_busy}/{one.slots}"
        table.add_row(one.id, one.host, str(one.pid), one.state, slots, *map(str, counts))
    return table


def _apps(apps: tuple[ApplicationStatus, ...]) -> Table:
    table = _table("Applications", "Id", "Name", "User", "State", "Running", "Queued", "Done")
    for one in apps:
        counts = (one.running, one.queued, one.done)
        table.add_row(one.id, one.name, one.user, one.state, *map(str, counts))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
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
