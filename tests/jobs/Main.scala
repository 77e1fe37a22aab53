import org.apache.spark.SparkException
import org.apache.spark.graphx.{GraphLoader, PartitionStrategy}
import org.apache.spark.sql.SparkSession

case class Person(name: String, age: Int, city: Option[String])

class NotWelcome(message: String) extends RuntimeException(message)

/** Prints one RESULT line for each thing it saw. Arguments: Spark's data folder, a second jar. */
object Main {
  def say(name: String, value: Any): Unit = println(s"RESULT $name $value")

  def main(args: Array[String]): Unit = {
    val spark = SparkSession.builder().appName("scala").getOrCreate()
    checkRdds(spark)
    checkDataset(spark)
    checkShared(spark)
    checkFailure(spark)
    checkJars(spark, args(1))
    checkGraph(spark, args(0))
    spark.stop()
  }

  def checkRdds(spark: SparkSession): Unit = {
    val numbers = spark.sparkContext.parallelize(1 to 1000, 4)
    val pairs = numbers.map(n => (n % 7, n.toLong))
    say("sum", numbers.map(n => n.toLong * n).reduce(_ + _))
    say("reduced", pairs.reduceByKey(_ + _, 3).collect().sorted.toList)
    say("joined", pairs.join(pairs.mapValues(_ * 2).filter(_._2 < 40), 2).count())
    say("sorted", numbers.sortBy(-_, numPartitions = 3).take(5).toList)
    say("partitions", numbers.repartition(3).mapPartitionsWithIndex(
      (index, rows) => Iterator(index -> rows.nonEmpty)).collect().toList)
  }

  def checkDataset(spark: SparkSession): Unit = {
    import spark.implicits._
    val people = Seq(Person("Ada", 36, Some("London")), Person("Alan", 41, None),
      Person("Grace", 85, Some("New York"))).toDS().repartition(2)
    say("dataset", people.map(p => p.copy(age = p.age + 1)).filter(_.age > 40).collect()
      .sortBy(_.name).toList)
    say("grouped", people.groupByKey(_.city.isDefined).mapGroups(
      (known, some) => (known, some.map(_.age).sum)).collect().sorted.toList)
  }

  def checkShared(spark: SparkSession): Unit = {
    val sc = spark.sparkContext
    val names = sc.broadcast((1 to 50000).map(n => n -> s"number $n").toMap)
    val seen = sc.longAccumulator("seen")
    val words = sc.collectionAccumulator[String]("words")
    sc.parallelize(1 to 100, 4).foreach { n =>
      seen.add(n)
      if (n % 25 == 0) words.add(names.value(n))
    }
    say("accumulator", seen.value)
    say("collected", words.value.toArray.map(_.toString).sorted.toList)
  }

  def refuse(n: Int): Int = if (n == 3) throw new NotWelcome(s"$n is not welcome") else n

  /** The exception of the task, its class, and the frames that are this job's own. */
  def checkFailure(spark: SparkSession): Unit =
    try say("unreached", spark.sparkContext.parallelize(1 to 4, 2).map(refuse).sum())
    catch {
      case e: SparkException =>
        val task = e.getMessage.split("Driver stacktrace").head
        // Where it ran is the one thing that may differ: "(TID 8) (host executor 3)".
        say("failure", task.linesIterator.next().replaceAll("""\(TID \d+\) \(.*?\)""", ""))
        task.linesIterator.drop(1).filter(_.contains("Main$")).foreach(say("frame", _))
        say("driver frames", e.getStackTrace.map(_.toString).filter(_.startsWith("Main")).toList)
        say("cause", e.getCause)
        say("cause frames", Option(e.getCause).toList.flatMap(_.getStackTrace.map(_.toString)
          .filter(_.startsWith("Main"))))
    }

  /** Classes that only the tasks load: one came by --jars, the other by addJar. */
  def checkJars(spark: SparkSession, later: String): Unit = {
    val sc = spark.sparkContext
    def call(name: String) = sc.parallelize(1 to 4, 2).map { n =>
      val loaded = Class.forName(name, true, Thread.currentThread.getContextClassLoader)
      loaded.getMethod("of", classOf[Int]).invoke(null, Int.box(n))
    }.collect().toList
    say("given jar", call("given.Given"))
    sc.addJar(later)
    say("added jar", call("added.Added"))
  }

  def checkGraph(spark: SparkSession, data: String): Unit = {
    val sc = spark.sparkContext
    val followers = s"$data/graphx/followers.txt"
    val users = sc.textFile(s"$data/graphx/users.txt").map { line =>
      val fields = line.split(",")
      (fields(0).toLong, fields(1))
    }
    val graph = GraphLoader.edgeListFile(sc, followers, numEdgePartitions = 2)
      .partitionBy(PartitionStrategy.EdgePartition2D)
    val ranks = users.join(graph.staticPageRank(5).vertices).values
    say("ranks", ranks.mapValues(rank => f"$rank%.6f").collect().sorted.toList)
    say("components", users.join(graph.connectedComponents().vertices).values.collect()
      .sorted.toList)
    say("triangles", graph.triangleCount().vertices.collect().sorted.toList)
  }
}

/** Ends its main method and nothing else. */
object Forgetful {
  def main(args: Array[String]): Unit = {
    val spark = SparkSession.builder().appName("forgetful").getOrCreate()
    println(s"RESULT ${spark.range(10).count()}")
  }
}
