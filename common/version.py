"""The version of Spark-Proxy."""

from importlib.metadata import version

VERSION = version("spark-proxy")
