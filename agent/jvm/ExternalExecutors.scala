package org.apache.spark.external

import java.nio.ByteBuffer
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.atomic.AtomicLong

import scala.concurrent.{Future, Promise}
import scala.reflect.ClassTag

import org.apache.spark.{SparkContext, SparkException, TaskState}
import org.apache.spark.internal.Logging
import org.apache.spark.resource.ResourceProfile
import org.apache.spark.rpc.{RpcAddress, RpcEndpointRef, RpcTimeout}
import org.apache.spark.scheduler.{ExecutorProcessLost, TaskDescription}
import org.apache.spark.scheduler.cluster.CoarseGrainedClusterMessages._
import org.apache.spark.scheduler.cluster.CoarseGrainedSchedulerBackend
import org.apache.spark.serializer.JavaSerializer
import org.apache.spark.util.SerializableBuffer

/**
 * The external executors, as Spark's scheduler sees them: each one registered with the driver
 * endpoint by a reference whose messages become frames. This is the hook.
 */
private[spark] class ExternalExecutors(sc: SparkContext, app: Long, send: Frame => Unit)
  extends Logging {

  private class Launched(val executor: Int, val description: TaskDescription)
  private class Asked(val executor: Int, val promise: Promise[Any])

  private val executors = new ConcurrentHashMap[Int, ExternalExecutorRef]()
  // Every task that was launched and has not ended; a state for any other is not believed.
  private val launched = new ConcurrentHashMap[Long, Launched]()
  private val asked = new ConcurrentHashMap[Long, Asked]()
  private val askIds = new AtomicLong()
  private val messages = new JavaSerializer(sc.conf).newInstance()

  private def driver: RpcEndpointRef =
    sc.schedulerBackend.asInstanceOf[CoarseGrainedSchedulerBackend].driverEndpoint

  /** From here on Spark's scheduler has an executor with these slots on that host. */
  def register(id: Int, host: String, port: Int, slots: Int): Unit = {
    val ref = new ExternalExecutorRef(id, RpcAddress(host, port))
    executors.put(id, ref)
    try {
      driver.askSync[Boolean](RegisterExecutor(id.toString, ref, host, slots, Map.empty, Map.empty,
        Map.empty, ResourceProfile.DEFAULT_RESOURCE_PROFILE_ID))
    } catch {
      case e: Exception =>
        executors.remove(id)
        throw e
    }
    driver.send(LaunchedExecutor(id.toString))
  }

  /**
   * Spark forgets the executor and reruns what it had.
   *
   * @param byApplication whether its own tasks ended it, which counts as their failure.
   */
  def remove(id: Int, reason: String, byApplication: Boolean): Unit = {
    if (executors.remove(id) != null) {
      launched.values.removeIf(_.executor == id)
      asked.values.removeIf(question => question.executor == id
        && question.promise.tryFailure(new SparkException(s"executor $id is gone: $reason")))
      // No host in the reason: the output of others on that host is still there.
      driver.send(RemoveExecutor(id.toString, ExecutorProcessLost(reason, None, byApplication)))
    }
  }

  def removeAll(reason: String): Unit =
    executors.keySet.forEach(id => remove(id, reason, byApplication = false))

  /** A frame from the agent. */
  def take(frame: Frame): Unit = frame.kind match {
    case Frame.Status => status(frame)
    case Frame.Reply => reply(frame)
    case Frame.Sync => executors.values.forEach(_.confirm())
    case other => logWarning(s"Ignoring a frame of kind $other")
  }

  private def status(frame: Frame): Unit = {
    val executor = executors.get(frame.executor)
    val task = launched.get(frame.task)
    if (executor != null && executor.isNew(frame.sequence)) {
      if (task != null && task.executor == frame.executor) {
        val state = TaskState(frame.state)
        if (TaskState.isFinished(state)) launched.remove(frame.task)
        val description = task.description
        driver.send(StatusUpdate(frame.executor.toString, frame.task, state,
          new SerializableBuffer(frame.payload), description.cpus, description.resources))
      }
      executor.took(frame)
    }
  }

  private def reply(frame: Frame): Unit = {
    val question = asked.remove(frame.sequence)
    if (question != null) {
      messages.deserialize[Any](frame.payload) match {
        case error: Throwable => question.promise.tryFailure(error)
        case answer => question.promise.trySuccess(answer)
      }
    }
  }

  /** An external executor's mailbox: what Spark sends to it travels as a frame. */
  private class ExternalExecutorRef(id: Int, val address: RpcAddress)
    extends RpcEndpointRef(sc.conf) {

    private var taken = 0L
    private var confirmed = 0L
    private var unconfirmedBytes = 0L

    override def name: String = s"external-executor-$id"

    override def send(message: Any): Unit = message match {
      case LaunchTask(data) => launch(data.value)
      case kill: KillTask => sendMessage(kill, task = kill.taskId)
      case other => sendMessage(other)
    }

    override def ask[T: ClassTag](message: Any, timeout: RpcTimeout): Future[T] = {
      val promise = Promise[Any]()
      val number = askIds.incrementAndGet()
      asked.put(number, new Asked(id, promise))
      sendMessage(message, sequence = number)
      promise.future.mapTo[T]
    }

    private def launch(bytes: ByteBuffer): Unit = {
      val description = TaskDescription.decode(bytes.duplicate())
      // Only barrier tasks know each other's addresses. They start together or not at all.
      val barrier = if (description.properties.containsKey("addresses")) Frame.FlagBarrier else 0
      val slots = math.min(math.ceil(description.cpus.toDouble).toInt, 127)
      launched.put(description.taskId, new Launched(id, description))
      ExternalExecutors.this.send(Frame(Frame.Launch, flags = barrier | slots << 1, executor = id,
        app = app, task = description.taskId, payload = bytes))
    }

    private def sendMessage(message: Any, task: Long = Frame.NoTask, sequence: Long = 0): Unit =
      ExternalExecutors.this.send(Frame(Frame.Message, executor = id, app = app, task = task,
        sequence = sequence, payload = messages.serialize[Any](message)))

    /** Whether a status was not seen before: after a broken stream a worker repeats some. */
    def isNew(sequence: Long): Boolean = synchronized(sequence > taken)

    def took(frame: Frame): Unit = synchronized {
      taken = frame.sequence
      unconfirmedBytes += frame.payload.remaining()
      if (taken - confirmed >= ExternalExecutors.ConfirmFrames
          || unconfirmedBytes >= ExternalExecutors.ConfirmBytes) {
        confirm()
      }
    }

    /** Tells the worker what it need not keep any longer. */
    def confirm(): Unit = synchronized {
      if (taken > confirmed) {
        confirmed = taken
        unconfirmedBytes = 0
        ExternalExecutors.this.send(
          Frame(Frame.Ack, executor = id, app = app, sequence = confirmed))
      }
    }
  }
}

private object ExternalExecutors {
  // Seldom enough to cost nothing, often enough that a worker keeps little.
  val ConfirmFrames = 64L
  val ConfirmBytes = 1L << 20
}
