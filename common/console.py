"""How our commands end: an error of ours is one sentence, and an exit status."""

import sys
from collections.abc import Callable
from typing import NoReturn

from common.errors import ConfigurationError, SparkProxyError

FAILURE_EXIT = 1
CONFIGURATION_EXIT = 2


def run(command: Callable[[], None]) -> NoReturn:
    """Runs a command line; 2 for a configuration error, 1 for any other of ours."""
    try:
        command()
    except SparkProxyError as error:
        print(error, file=sys.stderr)
        sys.exit(CONFIGURATION_EXIT if isinstance(error, ConfigurationError) else FAILURE_EXIT)
    sys.exit(0)
