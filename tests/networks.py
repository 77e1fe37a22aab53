"""Networks of our own for volunteers: namespaces of Linux behind a router that can translate.

    this machine --- router --- volunteer
                       `------- volunteer

The router is a namespace too: what it drops is lost without a word to either side, as on the way
through the internet. Addresses are private, and nothing leaves the machine. It takes root, `ip`
and `nft`.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count

TOOLS = ("ip", "nft")
COMMAND_TIMEOUT_S = 10.0
# Of the router. What is cut goes first, or connections that are open already would live on.
RULES = """
table ip tests {
  set cut { type ipv4_addr; }
  set natted { type ipv4_addr; }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ip saddr @cut drop
    ip daddr @cut drop
    ct state established,related accept
    ip daddr @natted drop
  }
  chain leave {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @natted masquerade
  }
}
"""
# Each way from the router takes four of the 256 addresses; one leads to this machine.
MAX_VOLUNTEERS = 63


class NoNetworks(Exception):
    """This machine does not let the tests make networks; says why."""


@dataclass
class Volunteer:
    """A machine of its own, as far as the network goes: one way out, through the router."""

    namespace: str
    address: str
    """Its own; behind NAT nobody else reaches it there."""
    _router: str

    def cut(self) -> None:
        """From now on all that it sends or is sent is lost, and nobody is told."""
        _mark(self._router, "add", "cut", self.address)

    def heal(self) -> None:
        """Ends `cut`; connections that both sides still have go on."""
        _mark(self._router, "delete", "cut", self.address)


class Network:
    """A router, and this machine as one of its neighbours."""

    def __init__(self, router: str, prefix: str) -> None:
        self._router = router
        self._prefix = prefix
        self._numbers = count(1)

    @property
    def host(self) -> str:
        """The address at which volunteers reach this machine."""
        return f"{self._prefix}.1"

    @contextmanager
    def volunteer(self, nat: bool = False) -> Iterator[Volunteer]:
        """A volunteer's machine, until the block ends.

        Args:
            nat: it can open connections to others, under the router's address, and they none
                to it.
        """
        number = next(self._numbers)
        assert number <= MAX_VOLUNTEERS
        namespace, link = f"{self._router}-{number}", f"volunteer{number}"
        gateway, address = (f"{self._prefix}.{4 * number + last}" for last in (1, 2))
        with _namespace(namespace):
            _ip(self._router, f"link add {link} type veth peer name eth0 netns {namespace}")
            _set_up(self._router, link, gateway)
            _set_up(namespace, "eth0", address)
            _ip(namespace, f"route add default via {gateway}")
            if nat:
                _mark(self._router, "add", "natted", address)
            yield Volunteer(namespace, address, self._router)


@contextmanager
def network() -> Iterator[Network]:
    """A router beside this machine, until the block ends; one at a time in a process.

    Raises:
        NoNetworks: this machine lacks the programs, the rights or the kernel for it.
    """
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise NoNetworks(f"missing here: {', '.join(missing)}")
    # The process id in names and addresses keeps runs apart that are under way at once.
    pid = os.getpid()
    router, link = f"spark-proxy-{pid}", f"spark{pid}"
    prefix = f"10.{192 + (pid >> 8) % 64}.{pid % 256}"
    with ExitStack() as stack:
        stack.enter_context(_namespace(router))
        _ip("", f"link add {link} type veth peer name out netns {router}")
        # A namespace takes its links along only when its last process has ended.
        stack.callback(_ip, "", f"link delete {link}")
        _set_up("", link, f"{prefix}.1")
        _set_up(router, "out", f"{prefix}.2")
        _ip("", f"route add {prefix}.0/24 via {prefix}.2")
        _run(*inside(router), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        _run(*inside(router), "nft", "-f", "-", text=RULES)
        yield Network(router, prefix)


def network_problem() -> str:
    """Why this machine does not let the tests make networks; empty where it does."""
    try:
        with network() as made, made.volunteer(nat=True):
            return ""
    except NoNetworks as error:
        return str(error)


def inside(namespace: str) -> tuple[str, ...]:
    """What stands before a command to run it there; empty for this machine.

    `ip` becomes the command, so that its process id is the command's.
    """
    return ("ip", "netns", "exec", namespace) if namespace else ()


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    _ip("", f"netns add {name}")
    try:
        _ip(name, "link set lo up")
        yield
    finally:
        _ip("", f"netns delete {name}")


def _set_up(namespace: str, link: str, address: str) -> None:
    _ip(namespace, f"address add {address}/30 dev {link}")
    _ip(namespace, f"link set {link} up")


def _mark(router: str, verb: str, name: str, address: str) -> None:
    """Adds the address to a set of the router's rules, or deletes it from there."""
    _run(*inside(router), "nft", verb, "element", "ip", "tests", name, f"{{ {address} }}")


def _ip(namespace: str, words: str) -> None:
    """`ip words`, in a namespace or, where it has no name, on this machine."""
    _run("ip", *(("-n", namespace) if namespace else ()), *words.split())


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )
    if done.returncode:
        raise NoNetworks(f"{' '.join(command)}: {done.stderr.strip()}")
