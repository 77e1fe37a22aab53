"""What happens while a command runs: a file of lines, and the screen if that is wanted."""

import time
from pathlib import Path


class Progress:
    """Lines with the seconds since the start; in the file with the time of day too, as in logs."""

    def __init__(self, file: Path, verbose: bool) -> None:
        self._file = file
        self._verbose = verbose
        self._start = time.monotonic()

    def tell(self, line: str) -> None:
        timed = f"{time.monotonic() - self._start:7.1f} s  {line}"
        with self._file.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {timed}\n")
        if self._verbose:
            print(timed, flush=True)
