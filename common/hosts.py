"""`conf/hosts`: which dispatchers and workers `start-all.sh` starts, and where.

    [dispatcher]
    localhost
    [worker]
    node1 slots=4 memory-mb=2048
    node1 slots=2            # a second worker there

`python -m common.hosts start` prints the plan, one service a line, with tabs between: the role;
the host, `localhost` for this machine; the command, quoted for a shell. On this machine it is a
script of `sbin/` with its options, elsewhere a whole command line for ssh.
`python -m common.hosts stop` prints, for each other machine, the host and the command.
"""

import functools
import shlex
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
import typer

from common.console import run
from common.errors import EnvironmentProblem, SettingsError
from common.security import TOKEN_VARIABLE, pool_token
from common.settings import Home, Settings

FILE_NAME = "hosts"
THIS_MACHINE = "localhost"
# Without conf/hosts: the smallest pool that shares work.
DEFAULT_HOSTS = ("[dispatcher]", "localhost", "[worker]", "localhost slots=1", "localhost slots=1")
# `home` is for the scripts; the others are options of the services.
OPTIONS = {
    "dispatcher": ("host", "port", "home"),
    "worker": ("slots", "memory-mb", "host", "port", "home"),
}
NUMBERS = ("slots", "memory-mb", "port")
WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Host:
    """One line of the file: a service on a machine."""

    role: str
    name: str
    """`localhost` for this machine, under whatever name it stands in the file."""
    instance: int
    """Counts the services of this role on this machine, from 1."""
    source: str
    """File and line, for messages."""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return self.name == THIS_MACHINE


@dataclass(frozen=True)
class Hosts:
    """What `start-all.sh` starts."""

    dispatchers: tuple[Host, ...]
    workers: tuple[Host, ...]
    urls: tuple[str, ...]
    """The dispatchers that the workers attach to."""

    @classmethod
    def load(cls, settings: Settings, home: Home) -> Self:
        """Reads `conf/hosts`, or what holds without it.

        Raises:
            SettingsError: a bad section, option or value, with file and line.
            EnvironmentProblem: the workers could not reach a dispatcher.
        """
        path = home.conf / FILE_NAME
        hosts = _parse(path, _read(path) if path.exists() else list(DEFAULT_HOSTS))
        dispatchers = tuple(host for host in hosts if host.role == "dispatcher")
        workers = tuple(host for host in hosts if host.role == "worker")
        far = not all(host.is_local for host in hosts)
        urls = tuple(_url(host, settings, far) for host in dispatchers) or settings.dispatcher_urls
        if not urls:
            raise EnvironmentProblem(
                f"{path} has no [dispatcher]", "Add one, or set dispatcher.urls"
            )
        return cls(dispatchers, workers, urls)


@functools.cache
def is_local(name: str) -> bool:
    """Whether a name or address is this machine; one that nobody knows is not."""
    if name in (THIS_MACHINE, socket.gethostname(), socket.getfqdn()):
        return True
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        return False
    mine = {address.address for card in psutil.net_if_addrs().values() for address in card}
    return not found.isdisjoint(mine)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(str(path), "file", f"cannot be read: {error}") from error


def _parse(path: Path, lines: list[str]) -> list[Host]:
    hosts: list[Host] = []
    instances: Counter[tuple[str, str]] = Counter()
    role = ""
    for number, line in enumerate(lines, 1):
        source = f"{path}:{number}"
        name, *words = _words(line, source)
        if name.startswith("["):
            role = _section(name, source)
        elif name:
            if not role:
                raise SettingsError(source, name, "stands before the first section")
            machine = THIS_MACHINE if is_local(name) else name
            options = _options(role, words, source, machine == THIS_MACHINE)
            instances[role, machine] += 1
            hosts.append(Host(role, machine, instances[role, machine], source, options))
    return hosts


def _words(line: str, source: str) -> list[str]:
    """As a shell splits them, so that a folder may have a space in its name."""
    try:
        return shlex.split(line, comments=True) or [""]
    except ValueError as error:
        raise SettingsError(source, line.strip(), f"cannot be read: {error}") from error


def _section(text: str, source: str) -> str:
    role = text.removeprefix("[").removesuffix("]")
    if text != f"[{role}]" or role not in OPTIONS:
        raise SettingsError(source, text, "unknown section; known are [dispatcher], [worker]")
    return role


def _options(role: str, words: list[str], source: str, here: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in OPTIONS[role] or not value:
            known = ", ".join(f"{name}=" for name in OPTIONS[role])
            raise SettingsError(source, word, f"unknown option of a {role}; known are {known}")
        if key == "home" and here:
            raise SettingsError(source, word, "is for other machines only")
        if key in NUMBERS and not (value.isdecimal() and int(value) > 0):
            raise SettingsError(source, word, "expected a whole number above 0")
        options[key] = value
    return options


def _url(host: Host, settings: Settings, far: bool) -> str:
    """Where a dispatcher is going to listen, as its workers and agents reach it."""
    address = host.options.get("host", settings.dispatcher_host if host.is_local else "")
    if address in ("", *WILDCARDS) or (far and _is_loopback(address)):
        raise SettingsError(
            host.source, host.name, "needs host=ADDRESS, the address at which workers reach it"
        )
    return f"http://{f'[{address}]' if ':' in address else address}:{_port(host, settings)}"


def _is_loopback(address: str) -> bool:
    return address in (THIS_MACHINE, "::1") or address.startswith("127.")


def _port(host: Host, settings: Settings) -> int:
    """The given port, or the next free one of those that instances on one machine share."""
    if given := host.options.get("port"):
        return int(given)
    if settings.dispatcher_port == 0:
        raise SettingsError(host.source, host.name, "needs port=N when dispatcher.port is 0")
    return settings.dispatcher_port + host.instance - 1


def plan(hosts: Hosts, settings: Settings, home: Home) -> list[tuple[str, str, str]]:
    """Role, host and command of each service, in the order in which they start.

    Raises:
        EnvironmentProblem: a dispatcher elsewhere cannot reach the embedded Redis.
    """
    commands = []
    if not settings.redis_host and hosts.dispatchers:
        if not all(host.is_local for host in hosts.dispatchers):
            raise EnvironmentProblem(
                "The embedded Redis serves this machine only", "Set redis.host for all dispatchers"
            )
        commands.append(("redis", THIS_MACHINE, "start-redis.sh"))
    for host in (*hosts.dispatchers, *hosts.workers):
        options = _flags(host, settings, hosts.urls)
        script = [f"start-{host.role}.sh", "--instance", str(host.instance), *options]
        commands.append((host.role, host.name, _start(host, home, script)))
    return commands


def _flags(host: Host, settings: Settings, urls: tuple[str, ...]) -> list[str]:
    options = {key: value for key, value in host.options.items() if key != "home"}
    if host.role == "dispatcher":
        options["port"] = str(_port(host, settings))
    flags = [word for key, value in options.items() for word in (f"--{key}", value)]
    if host.role == "worker":
        flags += [word for url in urls for word in ("--dispatcher", url)]
    return flags


def _start(host: Host, home: Home, script: list[str]) -> str:
    if host.is_local:
        return shlex.join(script)
    # The token arrives on standard input.
    token = f"IFS= read -r {TOKEN_VARIABLE} && export {TOKEN_VARIABLE}"
    return shlex.join(["bash", "-c", f"{token} && exec {_far(host, home, *script)}"])


def _far(host: Host, home: Home, script: str, *options: str) -> str:
    """A script of the other machine's `sbin/` as a command line for its shell."""
    folder = host.options.get("home", str(home.root))
    return shlex.join(["bash", f"{folder}/sbin/{script}", *options])


app = typer.Typer(add_completion=False)


@app.command()
def start() -> None:
    """Prints what starts the pool."""
    home = Home.from_environment()
    settings = Settings.load(home.conf)
    for line in plan(Hosts.load(settings, home), settings, home):
        print(*line, sep="\t")


@app.command()
def stop() -> None:
    """Prints what stops the other machines."""
    home = Home.from_environment()
    hosts = Hosts.load(Settings.load(home.conf), home)
    far = {host.name: host for host in (*hosts.workers, *hosts.dispatchers) if not host.is_local}
    for host in far.values():
        print(host.name, _far(host, home, "stop-all.sh", "--local"), sep="\t")


@app.command()
def token() -> None:
    """Prints the token of the pool, for the other machines' standard input."""
    home = Home.from_environment()
    print(pool_token(Settings.load(home.conf), home))


if __name__ == "__main__":
    run(app)
