"""Prints what a driver has around it: threads, listening sockets and child processes."""

import json
import re

import psutil
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
sc = spark.sparkContext
sc.parallelize(range(10), 2).sum()
jvm = psutil.Process(sc._jvm.java.lang.ProcessHandle.current().pid())
threads = sc._jvm.java.lang.Thread.getAllStackTraces().keySet().toString()
# Spark's own come and go with the load; what a plugin starts has a name of this kind.
names = re.findall(r"Thread\[(?:#\d+,)?([^,\]]*(?:external|plugin)[^,\]]*)", threads, re.IGNORECASE)
print("THREADS " + json.dumps(names))
listening = [c for c in jvm.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
print("LISTENING", len(listening))
alive = [child for child in jvm.children() if child.status() != psutil.STATUS_ZOMBIE]
print("CHILDREN " + json.dumps(sorted(child.name() for child in alive)))
print("MASTER " + sc.master)
spark.stop()
