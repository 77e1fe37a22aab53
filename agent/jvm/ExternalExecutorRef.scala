package org.apache.spark.external

import java.nio.ByteBuffer

import scala.collection.mutable
import scala.concurrent.{Future, Promise}
import scala.reflect.ClassTag

import org.apache.spark.SparkConf
import org.apache.spark.rpc.{RpcAddress, RpcEndpointRef, RpcTimeout}
import org.apache.spark.scheduler.TaskDescription
import org.apache.spark.scheduler.cluster.CoarseGrainedClusterMessages.{KillTask, LaunchTask}
import org.apache.spark.serializer.JavaSerializer

/**
 * An external executor's mailbox: what Spark sends to it travels as a frame.
 *
 * Both directions are numbered. What goes out is kept until the worker has confirmed it, and
 * what comes in is taken in its order and once: whichever process or connection on the way
 * breaks, each frame arrives exactly once.
 */
private class ExternalExecutorRef(
    val id: Int,
    val address: RpcAddress,
    val inside: Boolean,
    conf: SparkConf,
    executors: ExternalExecutors)
  extends RpcEndpointRef(conf) {

  private val messages = new JavaSerializer(conf).newInstance()

  private val unconfirmed = new mutable.Queue[Frame]()
  private var sent = 0L
  private var sentAt = 0L
  private var repeatAfter = ExternalExecutorRef.RepeatNanos

  private var taken = 0L
  private var told = 0L
  private var untoldBytes = 0L

  override def name: String = s"external-executor-$id"

  override def send(message: Any): Unit = message match {
    case LaunchTask(data) => launch(data.value)
    case kill: KillTask => sendMessage(kill, task = kill.taskId)
    case other => sendMessage(other)
  }

  override def ask[T: ClassTag](message: Any, timeout: RpcTimeout): Future[T] = {
    val promise = Promise[Any]()
    sendMessage(message, flags = Frame.FlagAsk, before = executors.asks(id, _, promise))
    promise.future.mapTo[T]
  }

  private def launch(bytes: ByteBuffer): Unit = {
    val task = TaskDescription.decode(bytes.duplicate())
    // Only barrier tasks know each other's addresses. They start together or not at all.
    val barrier = if (task.properties.containsKey("addresses")) Frame.FlagBarrier else 0
    val slots = math.min(math.ceil(task.cpus.toDouble).toInt, 127)
    val frame = Frame(Frame.Launch, flags = barrier | slots << 1, task = task.taskId,
      payload = bytes)
    sendNumbered(frame, executors.launches(id, _, task))
  }

  private def sendMessage(message: Any, task: Long = Frame.NoTask, flags: Int = 0,
      before: Long => Unit = _ => ()): Unit =
    sendNumbered(Frame(Frame.Message, flags = flags, task = task,
      payload = messages.serialize[Any](message)), before)

  /** @param before told the number before the frame can be answered. */
  private def sendNumbered(frame: Frame, before: Long => Unit): Unit = synchronized {
    sent += 1
    before(sent)
    val numbered = frame.copy(executor = id, app = executors.app, sequence = sent)
    if (unconfirmed.isEmpty) sentAt = System.nanoTime()
    unconfirmed.enqueue(numbered)
    executors.send(numbered)
  }

  /** Sends again what may have been lost; RESUME says that it goes by the new way. */
  def resume(): Unit = synchronized {
    executors.send(Frame(Frame.Resume, executor = id, app = executors.app))
    unconfirmed.foreach(executors.send)
    sentAt = System.nanoTime()
    told = 0
    confirm()
  }

  /** The worker has all up to this number. What it ought to have by now, and has not, is lost. */
  def confirmed(sequence: Long): Unit = synchronized {
    val before = unconfirmed.size
    while (unconfirmed.nonEmpty && unconfirmed.head.sequence <= sequence) unconfirmed.dequeue()
    val now = System.nanoTime()
    if (unconfirmed.size < before) {
      sentAt = now
      repeatAfter = ExternalExecutorRef.RepeatNanos
    }
    if (unconfirmed.nonEmpty && now - sentAt > repeatAfter) {
      unconfirmed.foreach(executors.send)
      sentAt = now
      // On a slow line it may only be late, and repeating makes it later.
      repeatAfter *= 2
    }
  }

  /**
   * Whether a frame of the executor is the next one: after a break some come again. Out of order
   * none can come but by an old connection, and then it comes again by the new one.
   */
  def takes(frame: Frame): Boolean = synchronized {
    val next = frame.sequence == taken + 1
    if (next) {
      taken += 1
      untoldBytes += frame.payload.remaining()
      if (taken - told >= ExternalExecutorRef.ConfirmFrames
          || untoldBytes >= ExternalExecutorRef.ConfirmBytes) {
        confirm()
      }
    }
    next
  }

  /** Tells the worker what it need not keep any longer. */
  def confirm(): Unit = synchronized {
    if (taken > told) {
      told = taken
      untoldBytes = 0
      executors.send(Frame(Frame.Ack, executor = id, app = executors.app, sequence = taken))
    }
  }
}

private object ExternalExecutorRef {
  // Seldom enough to cost nothing, often enough that a worker keeps little.
  val ConfirmFrames = 64L
  val ConfirmBytes = 1L << 20
  // A worker confirms each second: what took so much longer was lost on the way.
  val RepeatNanos = 5L * 1000 * 1000 * 1000
}
