import org.apache.spark.{SparkConf, SparkContext}

/** What is measured, once warm; prints one line "MEASURED name value" for each figure. */
object Benchmark {

  private def seconds(body: => Unit): Double = {
    val start = System.nanoTime()
    body
    (System.nanoTime() - start) / 1e9
  }

  private def median(values: Seq[Double]): Double = values.sorted.apply(values.length / 2)

  private def say(name: String, value: Double): Unit = println(s"MEASURED $name $value")

  def main(args: Array[String]): Unit = {
    val Array(executors, tasks, jobs, pairs) = args.map(_.toInt)
    val sc = new SparkContext(new SparkConf())
    // The driver counts as one; nothing is measured before all executors are there.
    while (sc.statusTracker.getExecutorInfos.length < executors + 1) Thread.sleep(20)

    def empty(count: Int): Unit = sc.parallelize(1 to count, count).foreachPartition(_ => ())
    def shuffle(): Unit = {
      val keys = sc.parallelize(1 to pairs, 8).map(n => (n % 100003, n.toLong))
      require(keys.reduceByKey(_ + _, 8).count() == math.min(pairs, 100003))
    }

    empty(tasks)
    shuffle()
    say("empty_tasks", tasks / median(Seq.fill(3)(seconds(empty(tasks)))))
    say("one_task_job", median(Seq.fill(jobs)(seconds(empty(1)))) * 1000)
    say("shuffle", median(Seq.fill(3)(seconds(shuffle()))))
    sc.stop()
  }
}
