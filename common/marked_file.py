"""A text file of somebody else's, with a marked block of ours at its end."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.errors import EnvironmentProblem

BEGIN = "# >>> spark-proxy >>>"
END = "# <<< spark-proxy <<<"
MADE_FILE = "# This file was made with the block, and goes with it."
MADE_FOLDER = "# This folder was made with the block, and goes with it."
# The line break before the block is part of it: a file that ended without one does so again
# when the block is gone. An editor may have changed the line ends since; where it has not, a
# carriage return before the block is the file's own. A begin without an end is nobody's block.
_BLOCK = re.compile(
    rf"(?:\r\n(?={BEGIN}\r)|\n(?!{BEGIN}\r))?"
    rf"^{BEGIN}(?P<body>(?:(?!^{BEGIN}).)*?)^{END}(?:\r?\n)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class MarkedFile:
    """The file as it was read. Reading and writing raise `EnvironmentProblem`."""

    path: Path
    text: str
    """Everything but our block, byte for byte; what is no UTF-8 as surrogates."""
    block: str
    """Ours, as it stands there; empty without one."""
    made: tuple[str, ...]
    """What was not there before our block: the file, the folder."""

    @classmethod
    def read(cls, path: Path) -> Self:
        with _translated(path):
            content = path.read_bytes() if path.exists() else b""
        text = content.decode(errors="surrogateescape")
        found = _BLOCK.search(text)
        if found is None:
            places = {MADE_FILE: path, MADE_FOLDER: path.parent}
            made = tuple(note for note, place in places.items() if not place.exists())
            return cls(path, text, "", made)
        made = tuple(note for note in (MADE_FILE, MADE_FOLDER) if note in found["body"])
        above, below = text[: found.start()], text[found.end() :]
        # What was added below the block is a line of its own without it, too.
        joint = "\n" if above and below and not above.endswith("\n") else ""
        return cls(path, above + joint + below, found[0], made)

    def hook(self, lines: Iterable[str]) -> bool:
        """Puts these lines into the block; false when they were there already."""
        block = "\n".join(["", BEGIN, *self.made, *lines, END, ""])
        if block == self.block:
            return False
        with _translated(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes((self.text + block).encode(errors="surrogateescape"))
        return True

    def unhook(self) -> bool:
        """Takes the block out, and the file and the folder that came with it; false without one."""
        if not self.block:
            return False
        with _translated(self.path):
            if self.text or MADE_FILE not in self.made:
                self.path.write_bytes(self.text.encode(errors="surrogateescape"))
                return True
            self.path.unlink()
        if MADE_FOLDER in self.made:
            with contextlib.suppress(OSError):  # somebody else's file lies there now
                self.path.parent.rmdir()
        return True


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{path} cannot be read or written: {error.strerror}", "Change its permissions"
        ) from error
