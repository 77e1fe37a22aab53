"""Jobs that go on step by step, as a test lets them: `steps.py NAME FOLDER`.

Each run of a task adds a line to FOLDER/runs. Tasks that wait do so until FOLDER/go is there.
"""

import os
import sys
import time

from pyspark import TaskContext
from pyspark.sql import SparkSession

name, folder = sys.argv[1:]
spark = SparkSession.builder.appName(name).getOrCreate()
sc = spark.sparkContext
counted = sc.accumulator(0)


def note(what):
    with open(f"{folder}/runs", "a") as runs:
        runs.write(f"{what} {TaskContext.get().partitionId()}\n")
    return True


def wait_to_go(file="go"):
    while not os.path.exists(f"{folder}/{file}"):
        time.sleep(0.05)


def wait_and_sum(tasks):
    """`tasks` tasks that wait; their sum, and how often an accumulator was added to."""

    def work(x):
        note("work")
        wait_to_go()
        counted.add(1)
        return x

    total = sc.parallelize(range(tasks), tasks).map(work).sum()
    return total, counted.value


def two_waits():
    """Two tasks, as many as there are slots."""
    return wait_and_sum(2)


def many_waits():
    """Several tasks for each slot."""
    return wait_and_sum(12)


def shuffle():
    """A map stage, and two reducers that wait before they read anything."""
    pairs = sc.parallelize(range(80), 4).map(lambda x: (x % 8, x))
    mapped = pairs.mapPartitions(lambda part: note("map") and part)

    def slow(part):
        note("reduce")
        wait_to_go()
        return part

    # The shuffle is read after the wait: what reduceByKey makes is lazy.
    return sorted(mapped.groupByKey(2).mapPartitions(slow).mapValues(sum).collect())


def shuffle_then_wait():
    """The map stage ends, the driver waits, and only then the reducers start."""
    pairs = sc.parallelize(range(80), 4).map(lambda x: (x % 8, x))
    mapped = pairs.mapPartitions(lambda part: note("map") and part).groupByKey(4)
    mapped.count()
    print("MAPPED", flush=True)
    wait_to_go()
    again = mapped.mapPartitions(lambda part: note("reduce") and part)
    return sorted(again.mapValues(sum).collect())


def one_after_the_other():
    """Jobs without an end, until FOLDER/go is there: how many there were, and wrong ones."""
    jobs = wrong = 0
    while not os.path.exists(f"{folder}/go"):
        jobs += 1
        wrong += sc.parallelize(range(8), 4).map(lambda x: note("work") and x).sum() != 28
        with open(f"{folder}/jobs", "a") as done:
            done.write("done\n")
    return jobs > 0, wrong


def write():
    """Rows in a folder of files; some of the tasks wait until they are let go."""

    def rows(partition, _):
        note("write")
        for number in range(100):
            if number == 50:
                wait_to_go()
            yield f"{partition},{number}"

    sc.parallelize(range(4), 4).mapPartitionsWithIndex(rows).saveAsTextFile(f"{folder}/out")
    lines = sc.textFile(f"{folder}/out").collect()
    return len(lines), len(set(lines))


def crash_python():
    """A Python worker that dies by a signal, the first time; then one that goes on."""

    def work(x):
        if TaskContext.get().attemptNumber() == 0 and x == 1:
            os.kill(os.getpid(), 11)
        return x

    return sc.parallelize(range(4), 4).map(work).sum()


def fill_memory():
    """A task that wants more memory than its executor JVM has."""
    return spark.range(0, 1, 1, 1).selectExpr("repeat('x', cast(id + 1900000000 as int))").collect()


def fill_disk():
    """Shuffle output of 64 MB for a disk that is smaller."""
    rows = sc.parallelize(range(64), 2).map(lambda x: (x, os.urandom(2**20)))
    return rows.repartition(2).count()


print("RESULT", globals()[name](), flush=True)
spark.stop()
