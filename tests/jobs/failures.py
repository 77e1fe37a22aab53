"""Jobs whose task always fails, under each master given: how many tries does Spark give it?"""

import re
import sys

from pyspark import SparkConf, SparkContext, TaskContext


def fail(_):
    context = TaskContext.get()
    raise ValueError(f"try {context.attemptNumber() + 1}")


for master in sys.argv[1:]:
    conf = SparkConf().setMaster(master).setAppName(f"failures under {master}")
    sc = SparkContext(conf=conf.set("spark.task.maxFailures", "2"))
    print("RESULT sum", master, sc.parallelize(range(100), 2).sum())
    try:
        sc.parallelize([1], 1).map(fail).collect()
    except Exception as error:
        raised = re.findall(r"ValueError: try \d+", str(error))
        print("RESULT raised", master, type(error).__name__, raised[-1])
    sc.stop()
