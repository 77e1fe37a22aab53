"""Many jobs whose results are known without Spark, one line of JSON before and after each.

    chaos.py SEED FOLDER --until EPOCH [--jobs N] [--pace SECONDS]

A job that fails or is wrong is told, and the next one runs.
"""

import argparse
import json
import random
import shutil
import time
from collections import defaultdict
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

PARTITIONS = 8
# An error is told by its beginning; the whole of it is in the driver's log.
SHOWN = 600


def paced(rdd, pace):
    """Each task of this takes that much longer, so that there is something to hit."""
    return rdd.mapPartitions(lambda part: (time.sleep(pace), part)[1])


def map_(sc, spark, chance, pace, folder):
    n, factor = chance.randrange(100, 2000), chance.randrange(3, 90)
    got = paced(sc.parallelize(range(n), PARTITIONS), pace).map(lambda x: x * x % factor)
    return got.collect(), [x * x % factor for x in range(n)]


def shuffle(sc, spark, chance, pace, folder):
    n, keys = chance.randrange(1000, 5000), chance.randrange(3, 40)
    pairs = paced(sc.parallelize(range(n), PARTITIONS), pace).map(lambda x: (x % keys, x))
    sums = paced(pairs.reduceByKey(lambda a, b: a + b, PARTITIONS - 2), pace)
    return sorted(sums.collect()), [(k, sum(range(k, n, keys))) for k in range(keys)]


def join(sc, spark, chance, pace, folder):
    left = [(x % 50, x) for x in range(chance.randrange(50, 300))]
    right = [(x % 70, -x) for x in range(chance.randrange(70, 200))]
    rdds = [paced(sc.parallelize(side, PARTITIONS // 2), pace) for side in (left, right)]
    got = rdds[0].join(rdds[1], PARTITIONS // 2)
    by_key = defaultdict(list)
    for key, value in right:
        by_key[key].append(value)
    return sorted(got.collect()), sorted((k, (a, b)) for k, a in left for b in by_key[k])


def cached(sc, spark, chance, pace, folder):
    n, rounds = chance.randrange(500, 3000), range(1, chance.randrange(3, 6))
    kept = paced(sc.parallelize(range(n), PARTITIONS), pace).map(lambda x: x % 101).cache()
    got = [kept.map(lambda x, r=r: x * r).sum() for r in rounds]
    kept.unpersist()
    return got, [r * sum(x % 101 for x in range(n)) for r in rounds]


def sql(sc, spark, chance, pace, folder):
    n, keys = chance.randrange(10_000, 200_000), chance.randrange(3, 30)
    table = spark.range(0, n, 1, PARTITIONS).withColumn("key", f.col("id") % keys)
    rows = table.groupBy("key").agg(f.sum("id"), f.count("id"), f.max("id")).orderBy("key")
    groups = [range(k, n, keys) for k in range(keys)]
    known = [(k, sum(group), len(group), group[-1]) for k, group in enumerate(groups)]
    return [tuple(row) for row in rows.collect()], known


def files(sc, spark, chance, pace, folder):
    """The rows as they lie there in the end: none lost, none twice."""
    n, target = chance.randrange(500, 3000), Path(folder) / f"out-{time.time_ns()}"
    try:
        paced(sc.parallelize(range(n), PARTITIONS), pace).map(str).saveAsTextFile(target.as_uri())
        parts = sorted(target.glob("part-*"))
        rows = [int(row) for part in parts for row in part.read_text().split()]
        whole = (target / "_SUCCESS").exists()
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return (whole, len(parts), sorted(rows)), (True, PARTITIONS, list(range(n)))


KINDS = {
    "map": map_, "shuffle": shuffle, "join": join, "cached": cached, "sql": sql, "files": files,
}


def tell(**what):
    print("CHAOS", json.dumps({**what, "at": time.time()}), flush=True)


def run(job, *arguments):
    """How it went, and what is to say of it."""
    try:
        got, known = job(*arguments)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {str(error)[:SHOWN]}"
    if got == known:
        return "right", ""
    return "wrong", f"got {str(got)[:SHOWN]}, and {str(known)[:SHOWN]} is right"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("seed", type=int)
    parser.add_argument("folder")
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--pace", type=float, default=0.0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    name = f"chaos-{asked.seed}"
    spark = SparkSession.builder.appName(name).config("spark.sql.shuffle.partitions", 4)
    spark = spark.getOrCreate()
    sc = spark.sparkContext
    for number in range(1, asked.jobs + 1):
        kind = chance.choice(list(KINDS))
        pace = asked.pace * chance.random()
        tell(event="begin", job=number, kind=kind)
        outcome, problem = run(KINDS[kind], sc, spark, chance, pace, asked.folder)
        tell(event="end", job=number, kind=kind, outcome=outcome, problem=problem)
        # Nothing runs any more in a context that has stopped.
        if time.time() > asked.until or sc._jsc.sc().isStopped():
            break
    tell(event="stopping")
    spark.stop()
    tell(event="over")


main()
