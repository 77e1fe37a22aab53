package org.apache.spark.external

import java.util.concurrent.ConcurrentHashMap

import scala.concurrent.Promise
import scala.jdk.CollectionConverters._

import org.apache.spark.{SparkContext, SparkException, TaskState}
import org.apache.spark.internal.Logging
import org.apache.spark.resource.ResourceProfile
import org.apache.spark.rpc.{RpcAddress, RpcEndpointRef}
import org.apache.spark.scheduler.{ExecutorDecommissionInfo, ExecutorProcessLost, TaskDescription}
import org.apache.spark.scheduler.cluster.CoarseGrainedClusterMessages._
import org.apache.spark.scheduler.cluster.CoarseGrainedSchedulerBackend
import org.apache.spark.serializer.JavaSerializer
import org.apache.spark.util.SerializableBuffer

/**
 * The external executors, as Spark's scheduler sees them: each one registered with the driver
 * endpoint by a reference whose messages become frames. This is the hook.
 *
 * What is known here is the truth of this application: an executor that was removed never comes
 * back, and a state is believed once, of a task that was launched on the executor that tells it.
 */
private[spark] class ExternalExecutors(sc: SparkContext, val app: Long, val send: Frame => Unit)
  extends Logging {

  private class Launched(val executor: Int, val sequence: Long, val description: TaskDescription)

  private val executors = new ConcurrentHashMap[Int, ExternalExecutorRef]()
  // Two dispatchers may tell of the same executor at once.
  private val registering = new Object
  private val removed = ConcurrentHashMap.newKeySet[Int]()
  // Every task that was launched and has not ended; a state for any other is not believed.
  private val launched = new ConcurrentHashMap[Long, Launched]()
  // By executor and number of the message that asks.
  private val asked = new ConcurrentHashMap[(Int, Long), Promise[Any]]()
  private val messages = new JavaSerializer(sc.conf).newInstance()

  private def backend = sc.schedulerBackend.asInstanceOf[CoarseGrainedSchedulerBackend]

  private def driver: RpcEndpointRef = backend.driverEndpoint

  def ids: Seq[Int] = executors.keySet.asScala.toSeq

  /**
   * From here on Spark's scheduler has an executor with these slots on that host. Said again, it
   * is reached by another way, and whatever may have been lost on the old one is sent again.
   *
   * @return false when the executor was removed before.
   */
  def register(id: Int, host: String, port: Int, slots: Int, inside: Boolean): Boolean =
      registering.synchronized {
    val known = executors.get(id)
    if (known != null) {
      known.resume()
    } else if (!removed.contains(id)) {
      val ref = new ExternalExecutorRef(id, RpcAddress(host, port), inside, sc.conf, this)
      executors.put(id, ref)
      introduce(ref, slots)
      ref.resume()
      // It may have been lost while it was introduced.
      if (removed.contains(id)) remove(id, "it was lost at once", byApplication = false)
    }
    executors.containsKey(id)
  }

  private def introduce(ref: ExternalExecutorRef, slots: Int): Unit = {
    val id = ref.id.toString
    try {
      driver.askSync[Boolean](RegisterExecutor(id, ref, ref.address.host, slots, Map.empty,
        Map.empty, Map.empty, ResourceProfile.DEFAULT_RESOURCE_PROFILE_ID))
    } catch {
      case e: Exception =>
        executors.remove(ref.id)
        throw e
    }
    driver.send(LaunchedExecutor(id))
  }

  /** Spark gives it no new task, and has it move its blocks where that is switched on. */
  def drain(id: Int, reason: String): Unit = if (executors.containsKey(id)) {
    backend.decommissionExecutors(Array((id.toString, ExecutorDecommissionInfo(reason, None))),
      adjustTargetNumExecutors = false, triggeredByExecutor = false)
  }

  /**
   * Spark forgets the executor and reruns what it had.
   *
   * @param byApplication whether its own tasks ended it, which counts as their failure.
   */
  def remove(id: Int, reason: String, byApplication: Boolean): Unit = {
    removed.add(id)
    if (executors.remove(id) != null) {
      launched.values.removeIf(_.executor == id)
      asked.forEach { (question, promise) =>
        if (question._1 == id) {
          promise.tryFailure(new SparkException(s"executor $id is gone: $reason"))
          asked.remove(question)
        }
      }
      // No host in the reason: the output of others on that host is still there.
      driver.send(RemoveExecutor(id.toString, ExecutorProcessLost(reason, None, byApplication)))
    }
  }

  /** The slots inside went with their agent; all others live on and wait for the next one. */
  def agentEnded(): Unit = executors.values.forEach { ref =>
    if (ref.inside) remove(ref.id, "the agent of this driver ended", byApplication = false)
  }

  /** A frame from the agent. */
  def take(frame: Frame): Unit = {
    val executor = executors.get(frame.executor)
    frame.kind match {
      case Frame.Sync => executors.values.forEach(_.confirm())
      case Frame.Ack => if (executor != null) executor.confirmed(frame.sequence)
      case Frame.Status | Frame.Reply =>
        if (executor != null && executor.takes(frame)) {
          if (frame.kind == Frame.Status) status(frame, executor) else reply(frame)
        }
      case other => logWarning(s"Ignoring a frame of kind $other")
    }
  }

  private def status(frame: Frame, executor: ExternalExecutorRef): Unit = {
    val task = launched.get(frame.task)
    if (task != null && task.executor == frame.executor) {
      val state = TaskState(frame.state)
      if (TaskState.isFinished(state)) launched.remove(frame.task)
      executor.confirmed(task.sequence)
      val description = task.description
      driver.send(StatusUpdate(frame.executor.toString, frame.task, state,
        new SerializableBuffer(frame.payload), description.cpus, description.resources))
    }
  }

  private def reply(frame: Frame): Unit = {
    val question = asked.remove((frame.executor, frame.task))
    if (question != null) {
      messages.deserialize[Any](frame.payload) match {
        case error: Throwable => question.tryFailure(error)
        case answer => question.trySuccess(answer)
      }
    }
  }

  // What the references tell, each in the order in which its frames are numbered.

  def launches(executor: Int, sequence: Long, task: TaskDescription): Unit = {
    launched.put(task.taskId, new Launched(executor, sequence, task))
    // Spark may not have heard yet, and launches the task again when it has.
    if (removed.contains(executor)) launched.remove(task.taskId)
  }

  def asks(executor: Int, sequence: Long, promise: Promise[Any]): Unit =
    asked.put((executor, sequence), promise)
}
