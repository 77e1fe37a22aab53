"""Every error of ours, as one tree:

SparkProxyError
├── ConfigurationError      a setting or file is wrong: one sentence, exit status 2
│   ├── SettingsError       a key or value of common.properties
│   └── EnvironmentProblem  Java, Spark, Redis or a port is not as needed
├── FrameError              a data stream that cannot go on
│   ├── FrameTooLarge       a frame above the limit
│   ├── FrameMalformed      a wrong version, kind or length
│   └── FrameLost           a number is missing
├── RefusedError            the other side said no, with its reason (4xx)
└── UnreachableError        the other side did not answer

Errors carry fields; `__str__` builds the sentence, which says what happened and what to do.
"""


class SparkProxyError(Exception):
    """The root of all errors of ours."""


class ConfigurationError(SparkProxyError):
    """The process cannot start as configured. The command line prints it and exits with 2."""


class SettingsError(ConfigurationError):
    """A key or value of `common.properties` is wrong."""

    def __init__(self, source: str, key: str, problem: str) -> None:
        super().__init__(source, key, problem)
        self.source = source
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.problem}"


class EnvironmentProblem(ConfigurationError):
    """Something on this machine is missing or in the way."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem.removesuffix('.')}. {self.remedy}"


class FrameError(SparkProxyError):
    """What came on a data stream is not what ought to come; the stream cannot go on."""


class FrameTooLarge(FrameError):
    """A frame announced more bytes than the limit allows."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(length, limit)
        self.length = length
        self.limit = limit

    def __str__(self) -> str:
        return f"a frame of {self.length} bytes is above frame.max.bytes ({self.limit})"


class FrameMalformed(FrameError):
    """A frame header with a wrong version, kind or length."""

    def __init__(self, field: str, found: int, expected: str) -> None:
        super().__init__(field, found, expected)
        self.field = field
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        return f"malformed frame: {self.field} is {self.found}, expected {self.expected}"


class FrameLost(FrameError):
    """A numbered frame did not arrive, and a later one did."""

    def __init__(self, executor: int, expected: int, found: int) -> None:
        super().__init__(executor, expected, found)
        self.executor = executor
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"executor {self.executor}: frame {self.expected} is missing before {self.found}"


class RefusedError(SparkProxyError):
    """The other side understood the request and said no."""

    def __init__(self, peer: str, status: int, reason: str) -> None:
        super().__init__(peer, status, reason)
        self.peer = peer
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.peer} refused ({self.status}): {self.reason}"


class UnreachableError(SparkProxyError):
    """The other side did not answer, or the connection broke."""

    def __init__(self, peer: str, problem: str) -> None:
        super().__init__(peer, problem)
        self.peer = peer
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.peer} is not reachable: {self.problem}"
