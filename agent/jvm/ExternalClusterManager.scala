package org.apache.spark.external

import java.io.File
import java.net.URI

import scala.collection.concurrent.{Map => ConcurrentMap}
import scala.concurrent.Future

import org.apache.spark.{SparkConf, SparkContext, SparkException}
import org.apache.spark.resource.ResourceProfile
import org.apache.spark.scheduler.{ExternalClusterManager => ClusterManager, SchedulerBackend, TaskScheduler, TaskSchedulerImpl}
import org.apache.spark.scheduler.cluster.CoarseGrainedSchedulerBackend

/**
 * The master `local-external`, which jobs with a local master are moved to: Spark's
 * coarse-grained scheduler with no executors but those of the pool.
 */
private[spark] class ExternalClusterManager extends ClusterManager {

  override def canCreate(master: String): Boolean = master.startsWith(Master.External)

  override def createTaskScheduler(sc: SparkContext, master: String): TaskScheduler =
    ExternalPool.current match {
      case Some(pool) => new TaskSchedulerImpl(sc, pool.inside.maxFailures)
      case None => throw new SparkException(s"The master ${Master.External} needs the plugin " +
        s"${classOf[ExternalSparkPlugin].getName} in spark.plugins: run sbin/install-agent.sh")
    }

  override def createSchedulerBackend(
      sc: SparkContext, master: String, scheduler: TaskScheduler): SchedulerBackend =
    new ExternalSchedulerBackend(scheduler.asInstanceOf[TaskSchedulerImpl], sc)

  override def initialize(scheduler: TaskScheduler, backend: SchedulerBackend): Unit =
    scheduler.asInstanceOf[TaskSchedulerImpl].initialize(backend)
}

private class ExternalSchedulerBackend(scheduler: TaskSchedulerImpl, sc: SparkContext)
  extends CoarseGrainedSchedulerBackend(scheduler, sc.env.rpcEnv) {

  private val pool = ExternalPool.current.get
  private val appId = s"external-${System.currentTimeMillis}"

  override def applicationId(): String = appId

  /** SparkContext waits for this before it lets jobs in. */
  override def sufficientResourcesRegistered(): Boolean = {
    pool.awaitAgent()
    true
  }

  /** The slots promised, registered or not: the number must not depend on who was faster. */
  override def defaultParallelism(): Int =
    conf.getInt("spark.default.parallelism", math.max(pool.promisedSlots, 2))

  override protected def doRequestTotalExecutors(
      totals: Map[ResourceProfile, Int]): Future[Boolean] = Future.successful(true)

  override protected def doKillExecutors(ids: Seq[String]): Future[Boolean] = {
    ids.foreach(id => pool.executors.remove(id.toInt, "killed by the driver", byApplication = false))
    Future.successful(true)
  }
}

/** What the job would have had inside: slots, and task failures until the job ends. */
private[spark] case class Inside(slots: Int, maxFailures: Int, local: Boolean)

private[spark] object Master {
  val External = "local-external"

  private val LocalN = """local\[([0-9]+|\*)\]""".r
  private val LocalNFailures = """local\[([0-9]+|\*)\s*,\s*([0-9]+)\]""".r

  def isExternal(conf: SparkConf): Boolean =
    conf.getOption("spark.master").exists(_.startsWith(External))

  /** Moves a local master to ours; a cluster's own stays. */
  def takeOver(sc: SparkContext): Inside = {
    val cores = Runtime.getRuntime.availableProcessors
    def slots(n: String) = if (n == "*") cores else n.toInt
    val failures = sc.conf.getInt("spark.task.maxFailures", 4)
    // Plain Spark gives a task one try under a local master.
    val inside = sc.master match {
      case "local" => Inside(1, 1, local = true)
      case LocalN(n) => Inside(slots(n), 1, local = true)
      case LocalNFailures(n, f) => Inside(slots(n), f.toInt, local = true)
      case master if master.startsWith(External) => Inside(cores, failures, local = true)
      case _ => Inside(cores, failures, local = false)
    }
    if (inside.local) {
      sc.conf.set("spark.master", External)
      Seq(sc.addedFiles, sc.addedArchives).foreach(_.values.foreach(
        serve(_, sc.env.rpcEnv.fileServer.addFile)))
      sc.addedJars.values.foreach(serve(_, sc.env.rpcEnv.fileServer.addJar))
      submittedMemory.foreach(sc.conf.setIfMissing("spark.executor.memory", _))
    }
    inside
  }

  /** `--executor-memory`, which spark-submit does not pass on where the master is a local one. */
  private def submittedMemory: Option[String] = {
    val words = sys.props.getOrElse("sun.java.command", "").split(' ')
    words.sliding(2).collectFirst { case Array("--executor-memory", memory) => memory }
  }

  /**
   * Files given to spark-submit were added while the master was still local, by their paths on
   * this machine: other machines need the driver's file server instead.
   */
  private def serve(added: ConcurrentMap[String, Long], publish: File => String): Unit =
    added.toSeq.foreach { case (key, timestamp) =>
      val uri = new URI(key)
      if (uri.getScheme == null || uri.getScheme == "file") {
        val fragment = Option(uri.getFragment).map("#" + _).getOrElse("")
        added.remove(key)
        added(publish(new File(uri.getPath)) + fragment) = timestamp
      }
    }
}
