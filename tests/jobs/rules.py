"""Small jobs by name, for tests of how jobs run: `rules.py NAME`."""

import sys
import time

from pyspark import BarrierTaskContext, SparkFiles, TaskContext
from pyspark.sql import SparkSession


def sum_slowly(sc):
    return sc.parallelize(range(40), 40).map(lambda x: time.sleep(0.1) or x).sum()


def barrier_rounds(sc):
    def meet(_):
        context = BarrierTaskContext.get()
        time.sleep(0.3)
        return [len(context.allGather(str(context.partitionId())))]

    return [sc.parallelize(range(2), 2).barrier().mapPartitions(meet).collect() for _ in range(5)]


def speculation(sc):
    def work(x):
        # Only the first try of one task hangs.
        if x == 3 and TaskContext.get().attemptNumber() == 0:
            time.sleep(120)
        return x

    return sc.parallelize(range(8), 8).map(work).sum()


def huge_results(sc):
    """One result above 100 MB, which is above spark.task.maxDirectResultSize, too."""
    return [len(x) for x in sc.parallelize([1], 1).map(lambda _: bytes(110 * 2**20)).collect()]


def huge_task(sc):
    """A task whose closure is large, and a broadcast of 8 MB."""
    table = sc.broadcast(bytes(8 * 2**20))
    return sc.parallelize(range(4), 4).map(lambda x: len(table.value) + x).sum()


def wait_for_ever(sc):
    print("READY", flush=True)
    return sc.parallelize(range(2), 2).map(lambda _: time.sleep(600)).count()


def shuffle_slowly(sc):
    pairs = sc.parallelize(range(400), 8).map(lambda x: (x % 10, x))
    slow = pairs.reduceByKey(lambda a, b: a + b, 8).map(lambda kv: time.sleep(0.5) or kv)
    print("READY", flush=True)
    return sorted(slow.collect())


def archive(sc):
    def read(_):
        with open(SparkFiles.get("given.zip") + "/inside.txt") as file:
            return file.read()

    sc.addArchive(sys.argv[2])
    return sc.parallelize([0, 1], 2).map(read).collect()


spark = SparkSession.builder.appName(sys.argv[1]).getOrCreate()
print("RESULT", globals()[sys.argv[1]](spark.sparkContext), flush=True)
spark.stop()
