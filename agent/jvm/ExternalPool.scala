package org.apache.spark.external

import java.util.concurrent.{CountDownLatch, TimeUnit}
import java.util.concurrent.atomic.AtomicInteger

import scala.util.Random

import com.fasterxml.jackson.databind.ObjectMapper

import org.apache.spark.{SparkConf, SparkContext, SparkException}
import org.apache.spark.internal.Logging
import org.apache.spark.rpc.RpcEndpointAddress
import org.apache.spark.scheduler.TaskSchedulerImpl
import org.apache.spark.scheduler.cluster.CoarseGrainedSchedulerBackend
import org.apache.spark.util.Utils

/** The pool as one SparkContext uses it: its agent process and its external executors. */
private[spark] class ExternalPool(sc: SparkContext, home: Home, val inside: Inside)
  extends Logging {

  /** Names this SparkContext for ever: application ids can repeat, task ids start again. */
  val key: Long = new Random(new java.security.SecureRandom()).nextLong()

  private val settled = new CountDownLatch(1)
  private val executorIds = new AtomicInteger(ExternalPool.FirstExecutorId)
  private val stopped = new CountDownLatch(1)
  @volatile private var problem: Option[String] = None
  @volatile private var _promisedSlots = 0

  val executors = new ExternalExecutors(sc, key, frame => agent.send(frame))
  private val agent = new AgentProcess(home, this)

  def start(): Unit = agent.start()

  def stop(): Unit = {
    stopped.countDown()
    agent.stop()
  }

  def isStopped: Boolean = stopped.getCount == 0

  def promisedSlots: Int = _promisedSlots

  /** What the agent says of the pool, when it has found it and whenever it changes. */
  def promise(slots: Int): Unit = {
    _promisedSlots = slots
    settled.countDown()
  }

  /** The agent cannot start, for a reason that waiting does not mend. A job under way waits. */
  def failToStart(reason: String): Unit = if (settled.getCount > 0) {
    problem = Some(reason)
    settled.countDown()
  }

  def cannotStart: Boolean = problem.isDefined

  /**
   * Waits until the agent knows the pool.
   *
   * @throws SparkException with the agent's own sentence when it cannot start.
   */
  def awaitAgent(): Unit = {
    if (!settled.await(ExternalPool.AgentStartSeconds, TimeUnit.SECONDS)) {
      throw new SparkException("Spark-Proxy: the agent did not start within " +
        s"${ExternalPool.AgentStartSeconds} seconds; see ${home.root}/logs")
    }
    problem.foreach(reason => throw new SparkException(s"Spark-Proxy: $reason"))
  }

  def agentListens(port: Int): Unit = agent.resultsPort = port

  /** Blocks of executor ids, far above what a cluster manager hands out. */
  def reserveExecutorIds(count: Int): Int = executorIds.getAndAdd(count)

  /** Ends every job under way with this reason: the pool is empty and may not be waited for. */
  def failJobs(reason: String): Unit = {
    val scheduler = sc.taskScheduler.asInstanceOf[TaskSchedulerImpl]
    scheduler.synchronized(scheduler.rootPool.getSortedTaskSetQueue.toList).foreach(_.abort(reason))
  }

  /** `common.messages.DriverApplication`; waits until the scheduler runs and has named it. */
  def describe(): String = {
    val conf = sc.conf
    while (!ExternalPool.schedulerRuns(sc)) {
      if (stopped.await(ExternalPool.PollMs, TimeUnit.MILLISECONDS)) {
        throw new SparkException("the application has ended")
      }
    }
    val address = RpcEndpointAddress(conf.get("spark.driver.host"),
      conf.get("spark.driver.port").toInt, CoarseGrainedSchedulerBackend.ENDPOINT_NAME)
    ExternalPool.json(Map(
      "key" -> f"$key%016x",
      "id" -> sc.taskScheduler.applicationId(),
      "name" -> sc.appName,
      "user" -> sc.sparkUser,
      "spark" -> s"${sc.version}/${ExternalPool.scalaVersion}",
      "driver_url" -> address.toString,
      "spark_home" -> sc.getSparkHome().orElse(sys.env.get("SPARK_HOME")).getOrElse(""),
      "local_slots" -> inside.slots,
      "local_master" -> inside.local,
      "executors" -> executors.ids,
      "executor" -> ExternalPool.executorRequest(sc)))
  }
}

private[spark] object ExternalPool extends Logging {
  private val FirstExecutorId = 1000000
  // Starting Python with its libraries takes a second; a machine under load gets this long.
  private val AgentStartSeconds = 60L
  private val PollMs = 5L

  @volatile private var pool: Option[ExternalPool] = None

  /** The pool of this JVM's SparkContext, of which there is one at a time. */
  def current: Option[ExternalPool] = pool

  def open(sc: SparkContext, home: Home, inside: Inside): Unit = {
    val opened = new ExternalPool(sc, home, inside)
    pool = Some(opened)
    opened.start()
  }

  def close(): Unit = {
    pool.foreach(_.stop())
    pool = None
  }

  private def schedulerRuns(sc: SparkContext): Boolean =
    sc.taskScheduler != null && sc.conf.contains("spark.app.id")

  private def scalaVersion = scala.util.Properties.versionNumberString.split('.').take(2).mkString(".")

  private def executorRequest(sc: SparkContext): Map[String, Any] = {
    val conf = sc.conf
    val memoryMb = conf.getSizeAsMb("spark.executor.memory", "1g")
    Map(
      "memory_mb" -> memoryMb,
      "overhead_mb" -> overheadMb(conf, memoryMb),
      "java_options" -> Seq("spark.executor.defaultJavaOptions", "spark.executor.extraJavaOptions")
        .flatMap(conf.getOption(_)).mkString(" "),
      "class_path" -> conf.get("spark.executor.extraClassPath", ""),
      "library_path" -> conf.get("spark.executor.extraLibraryPath", ""),
      "environment" -> (conf.getExecutorEnv.toMap + ("SPARK_USER" -> sc.sparkUser)),
      "conf" -> startupConf(sc),
      "task_cpus" -> math.ceil(conf.getDouble("spark.task.cpus", 1)).toInt)
  }

  /** What an executor needs before it can ask the driver for the rest. */
  private def startupConf(sc: SparkContext): Map[String, String] = {
    val conf = sc.conf.getAll.filter { case (key, _) => SparkConf.isExecutorStartupConf(key) }.toMap
    val security = sc.env.securityManager
    if (security.isAuthenticationEnabled()) {
      conf + ("spark.authenticate.secret" -> security.getSecretKey())
    } else {
      conf
    }
  }

  /** As Spark's resource profiles count it: a tenth, 384 MB at least, off-heap and PySpark. */
  private def overheadMb(conf: SparkConf, memoryMb: Long): Long = {
    val overhead = conf.getSizeAsMb("spark.executor.memoryOverhead",
      s"${math.max(memoryMb / 10, 384)}m")
    val offHeap = Utils.executorOffHeapMemorySizeAsMb(conf)
    val python = conf.getSizeAsMb("spark.executor.pyspark.memory", "0m")
    overhead + offHeap + python
  }

  private def json(value: Map[String, Any]): String = {
    def plain(any: Any): Any = any match {
      case map: Map[_, _] =>
        val copy = new java.util.LinkedHashMap[String, Any]()
        map.foreach { case (k, v) => copy.put(k.toString, plain(v)) }
        copy
      case sequence: Seq[_] => java.util.Arrays.asList(sequence.map(plain): _*)
      case other => other
    }
    new ObjectMapper().writeValueAsString(plain(value))
  }
}
