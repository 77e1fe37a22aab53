"""One job that uses much of Spark, and prints one line of JSON for each thing it saw.

Arguments: a folder for its output, a text file that was given by --files.
"""

import contextlib
import json
import os
import re
import sys
import time
import urllib.request

from pyspark import BarrierTaskContext, InheritableThread, SparkContext, SparkFiles, StorageLevel, TaskContext
from pyspark.sql import SparkSession
from pyspark.sql import functions as F


def say(name, value):
    print("RESULT " + json.dumps({name: value}, sort_keys=True), flush=True)


def check_rdds(sc):
    say("sum", sc.parallelize(range(1000), 8).map(lambda x: x * x).sum())
    pairs = sc.parallelize(range(1000), 6).map(lambda x: (x % 7, x))
    say("shuffle", sorted(pairs.reduceByKey(lambda a, b: a + b, 4).collect()))
    say("join", sorted(pairs.join(sc.parallelize([(k, k * 10) for k in range(7)], 2)).countByKey().items()))
    say("sorted", [pair[0] for pair in pairs.sortByKey(False, 3).collect()][::100])


def check_shared_variables(sc):
    table = sc.broadcast({n: str(n) * 3 for n in range(100_000)})
    say("broadcast", sc.parallelize(range(10), 5).map(lambda x: len(table.value[x * 9999])).collect())
    table.unpersist(blocking=True)
    say("broadcast_again", sc.parallelize([1], 1).map(lambda x: table.value[x]).collect())
    table.destroy(blocking=True)
    counter = sc.accumulator(0)
    sc.parallelize(range(100), 10).foreach(lambda x: counter.add(x))
    say("accumulator", counter.value)


def check_cache(sc):
    cached = sc.parallelize(range(10_000), 4).map(lambda x: (x, x + 1)).persist(StorageLevel.MEMORY_ONLY)
    say("cached_count", cached.count())
    tracker = sc._jsc.sc().getRDDStorageInfo()
    say("cached_partitions", [info.numCachedPartitions() for info in tracker])
    say("cached_again", cached.map(lambda pair: pair[1]).sum())
    cached.unpersist(blocking=True)


def check_results(sc):
    # Above spark.task.maxDirectResultSize, which is 1 MB.
    say("big_results", [len(x) for x in sc.parallelize([3, 5], 2).map(lambda mb: b"x" * (mb << 20)).collect()])


def check_files(sc, given):
    def read(_):
        with open(SparkFiles.get(given)) as file:
            return file.read()

    say("files", sc.parallelize([0, 1], 2).map(read).distinct().collect())
    path = os.path.join(sys.argv[1], "added.txt")
    with open(path, "w") as file:
        file.write("added later")
    sc.addFile(path)

    def read_added(_):
        with open(SparkFiles.get("added.txt")) as file:
            return file.read()

    say("add_file", sc.parallelize([0, 1], 2).map(read_added).distinct().collect())

    def imported(_):
        import given_module

        return given_module.ANSWER

    say("py_files", sc.parallelize([0, 1], 2).map(imported).distinct().collect())


def check_failures(sc):
    def fail(x):
        if x == 3:
            raise ValueError("three is not welcome")
        return x

    try:
        sc.parallelize(range(4), 4).map(fail).collect()
    except Exception as error:
        # Where it ran is the one thing that may differ: "(TID 87) (host executor 3)".
        text = re.sub(r"\(TID \d+\) \(.*? executor \w+\)", "", str(error))
        say("failure_type", type(error).__name__)
        say("failure_text", text.partition("Driver stacktrace")[0])
    say("after_failure", sc.parallelize(range(4), 4).sum())


def check_cancel(sc):
    outcome = []
    # Spark's status store may not show a running task until it ends: the tasks say it themselves.
    begun = [os.path.join(sys.argv[1], f"begun-{n}") for n in range(2)]

    def sleep(path):
        open(path, "w").close()
        time.sleep(8)

    def run():
        sc.setJobGroup("slow", "to be cancelled", interruptOnCancel=True)
        try:
            sc.parallelize(begun, 2).map(sleep).collect()
            outcome.append("finished")
        except Exception as error:
            outcome.append("cancelled" if "cancelled" in str(error) else str(error)[:300])

    thread = InheritableThread(target=run)
    thread.start()
    while thread.is_alive() and not all(map(os.path.exists, begun)):
        time.sleep(0.05)
    sc.cancelJobGroup("slow")
    thread.join(60)
    say("cancelled", outcome)
    say("after_cancel", sc.parallelize(range(6), 2).sum())


def check_barrier(sc):
    def meet(_):
        context = BarrierTaskContext.get()
        everybody = context.allGather(str(context.partitionId()))
        context.barrier()
        hosts = [info.address.count(":") for info in context.getTaskInfos()]
        return [(context.partitionId(), sorted(everybody), hosts)]

    say("barrier", sorted(sc.parallelize(range(2), 2).barrier().mapPartitions(meet).collect()))


def check_metrics(sc):
    # By the REST API, as a user of Spark's UI would see it.
    url = f"{sc.uiWebUrl}/api/v1/applications/{sc.applicationId}"
    sc.parallelize(range(100), 4).map(lambda x: (x, x)).groupByKey(2).count()
    deadline = time.time() + 30
    while time.time() < deadline:
        with urllib.request.urlopen(f"{url}/stages?status=complete") as reply:
            stages = json.load(reply)
        if any(stage["shuffleWriteRecords"] for stage in stages):
            break
        time.sleep(0.1)
    say("run_time", any(stage["executorRunTime"] for stage in stages))
    say("shuffle_records", max(stage["shuffleWriteRecords"] for stage in stages) >= 100)
    with urllib.request.urlopen(f"{url}/allexecutors") as reply:
        executors = [e for e in json.load(reply) if e["id"] != "driver"]
    print("EXECUTORS " + json.dumps(sorted((e["hostPort"].split(":")[0], e["totalCores"]) for e in executors)))


def check_sql(spark, folder):
    frame = spark.range(0, 10_000, 1, 4).withColumn("k", F.col("id") % 10)
    rows = frame.groupBy("k").agg(F.sum("id").alias("s"), F.count("*").alias("n")).orderBy("k").collect()
    say("sql", [tuple(row) for row in rows])
    path = os.path.join(folder, "table")
    frame.write.mode("overwrite").partitionBy("k").parquet(path)
    say("parquet", spark.read.parquet(path).where("k = 3").count())
    say("parquet_files", sum(name.endswith(".parquet") for _, _, names in os.walk(path) for name in names))
    double = F.udf(lambda x: x * 2, "long")
    say("udf", frame.select(F.sum(double("id"))).first()[0])


def main():
    spark = SparkSession.builder.appName("behaviours").getOrCreate()
    sc: SparkContext = spark.sparkContext
    started = time.time()
    checks = [check_rdds, check_shared_variables, check_cache, check_results, check_failures]
    checks += [check_cancel, check_barrier, check_metrics]
    for check in checks:
        check(sc)
        print(f"TIME {check.__name__} {time.time() - started:.1f}", flush=True)
    check_files(sc, sys.argv[2])
    check_sql(spark, sys.argv[1])
    say("task_host", sc.parallelize([0], 1).map(lambda _: TaskContext.get().partitionId()).collect())
    jvm = sc._jvm
    spark.stop()
    # The timer of a barrier stage in Spark 3.5 would keep a driver with tasks inside alive.
    with contextlib.suppress(Exception):
        jvm.System.exit(0)


main()
