"""Tests of Spark-Proxy."""
