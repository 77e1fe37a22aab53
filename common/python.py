"""Python interpreters of this machine."""

import subprocess

_TELL_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
# It prints one line; a machine under load still does so by then.
_TIMEOUT_S = 10


def python_version(path: str) -> str | None:
    """`3.11`, or none where this is no Python that runs."""
    try:
        told = subprocess.run(
            [path, "-c", _TELL_VERSION],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()
