"""Jobs that wait for marks, so that a test can cut a network at a moment it knows:
`networks.py NAME FOLDER`. A mark is a file in the folder, which all machines share.
"""

import sys
import time
from operator import add
from pathlib import Path

from pyspark import TaskContext
from pyspark.sql import SparkSession

FOLDER = Path(sys.argv[2])


def reach(mark):
    (FOLDER / mark).touch()


def wait_for(*marks):
    while not all((FOLDER / mark).exists() for mark in marks):
        time.sleep(0.02)


def meet(name):
    """Two tasks that are there only together: with one slot each, on two workers."""

    def both(index, items):
        reach(f"{name}-{index}")
        wait_for(f"{name}-0", f"{name}-1")
        return items

    return both


def pairs(sc):
    """Pairs to reduce by key, half of which each of two workers has."""
    numbers = sc.parallelize(range(400), 2).mapPartitionsWithIndex(meet("map"))
    return numbers.map(lambda x: (x % 10, x))


def reduce_and_wait(sc):
    """Reducers that begin on both workers, and a second job for both when the first is done."""
    ended = sc.accumulator(0)

    def wait(index, items):
        reach(f"reduce-{index}-{TaskContext.get().attemptNumber()}")
        wait_for("go")
        ended.add(1)
        return items

    first = pairs(sc).reduceByKey(add, 4).mapPartitionsWithIndex(wait).collect()
    reach("first")
    wait_for("again")
    second = sc.parallelize(range(10), 2).mapPartitionsWithIndex(meet("again")).sum()
    return sorted(first), second, ended.value


def reduce_twice(sc):
    """Reducers that need what both workers hold, and again the same when told."""
    reduced = pairs(sc).reduceByKey(add, 4)
    first = reduced.collect()
    reach("first")
    wait_for("go")
    return sorted(first) == sorted(reduced.collect()), sorted(first)


spark = SparkSession.builder.appName(sys.argv[1]).getOrCreate()
print("RESULT", globals()[sys.argv[1]](spark.sparkContext), flush=True)
spark.stop()
