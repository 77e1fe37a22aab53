package org.apache.spark.external

import java.nio.ByteBuffer
import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.atomic.AtomicInteger

import scala.concurrent.Future
import scala.io.StdIn
import scala.reflect.ClassTag

import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}

import org.apache.spark.{SparkEnv, TaskState}
import org.apache.spark.executor.CoarseGrainedExecutorBackend
import org.apache.spark.internal.config.DECOMMISSION_ENABLED
import org.apache.spark.resource.ResourceProfile
import org.apache.spark.rpc.{RpcAddress, RpcCallContext, RpcEndpointRef, RpcEnv, RpcTimeout}
import org.apache.spark.scheduler.cluster.CoarseGrainedClusterMessages.{DecommissionExecutor, LaunchTask, StatusUpdate}
import org.apache.spark.serializer.JavaSerializer
import org.apache.spark.util.SerializableBuffer

/**
 * Spark's own executor process, with one difference: tasks and their states travel over the
 * worker's frame channel. All else (the configuration, broadcasts, blocks, shuffles,
 * heartbeats) goes between executor and driver as ever.
 */
private[spark] class ExternalExecutor(
    rpcEnv: RpcEnv,
    arguments: CoarseGrainedExecutorBackend.Arguments,
    env: SparkEnv,
    profile: ResourceProfile,
    launch: JsonNode)
  extends CoarseGrainedExecutorBackend(rpcEnv, arguments.driverUrl, arguments.executorId,
    arguments.bindAddress, arguments.hostname, arguments.cores, env, None, profile) {

  private val id = arguments.executorId.toInt
  private val messages = new JavaSerializer(env.conf).newInstance()
  private val running = new AtomicInteger()
  private var sequence = 0L

  private val channel = new FrameChannel("external-executor", onFrame = take, onClose = workerGone)

  /** Registering is the driver side's work; here the executor starts and tells the worker. */
  override def onStart(): Unit = {
    env.executorBackend = Some(this)
    driver = Some(new DriverByChannel(rpcEnv.setupEndpointRefByURI(arguments.driverUrl)))
    receive(CoarseGrainedExecutorBackend.RegisteredExecutor)
    if (executor != null) {
      channel.connect(launch.get("channel_port").asInt, launch.get("channel_token").asText)
      val port = env.blockManager.blockManagerId.port.toString
      channel.send(Frame(Frame.Ready, executor = id, payload = ByteBuffer.wrap(port.getBytes(UTF_8))))
    }
  }

  private def take(frame: Frame): Unit = frame.kind match {
    case Frame.Launch =>
      running.incrementAndGet()
      receive(LaunchTask(new SerializableBuffer(frame.payload)))
    case Frame.Message =>
      messages.deserialize[Any](frame.payload) match {
        case message if frame.flags == Frame.FlagAsk =>
          receiveAndReply(new ReplyByChannel(frame.sequence))(message)
        case DecommissionExecutor if !env.conf.get(DECOMMISSION_ENABLED) => leaveWhenIdle()
        case message => receive(message)
      }
    case Frame.Ping => channel.send(frame)
    case other => logWarning(s"Ignoring a frame of kind $other")
  }

  // Nobody hears of this process any more, and what it holds has been given up.
  private def workerGone(): Unit = if (!stopping.get()) Runtime.getRuntime.halt(1)

  /** What Spark does not do where its own decommissioning is switched off. */
  private def leaveWhenIdle(): Unit = {
    val leaving = new Thread("leave-when-idle") {
      override def run(): Unit = {
        // Twice, since a task that is launched already may still be on its way.
        var idle = 0
        while (idle < 2) {
          Thread.sleep(ExternalExecutor.IdleCheckMs)
          idle = if (running.get == 0) idle + 1 else 0
        }
        exitExecutor(0, "it ran its last task")
      }
    }
    leaving.setDaemon(true)
    leaving.start()
  }

  /** The worker tells of an orderly end, after the last result: Spark's own word would overtake. */
  override protected def exitExecutor(
      code: Int, reason: String, throwable: Throwable, notifyDriver: Boolean): Unit =
    super.exitExecutor(code, reason, throwable, notifyDriver && code != 0)

  /** The driver, as the executor sees it: task states go by channel, all else by Spark's RPC. */
  private class DriverByChannel(real: RpcEndpointRef) extends RpcEndpointRef(env.conf) {
    override def address: RpcAddress = real.address
    override def name: String = real.name
    override def ask[T: ClassTag](message: Any, timeout: RpcTimeout): Future[T] =
      real.ask[T](message, timeout)
    override def send(message: Any): Unit = message match {
      case update: StatusUpdate => sendStatus(update)
      case other => real.send(other)
    }

    private def sendStatus(update: StatusUpdate): Unit = {
      if (TaskState.isFinished(update.state)) running.decrementAndGet()
      sendNumbered(Frame(Frame.Status, state = update.state.id, executor = id,
        task = update.taskId, payload = update.data.value))
    }
  }

  // Numbered and queued in one step, or a later number could go out first.
  private def sendNumbered(frame: Frame): Unit = channel.synchronized {
    sequence += 1
    channel.send(frame.copy(sequence = sequence))
  }

  /** Answers what the driver asked in the frame of this number. */
  private class ReplyByChannel(asked: Long) extends RpcCallContext {
    override def senderAddress: RpcAddress = driver.get.address
    override def reply(response: Any): Unit = sendNumbered(Frame(
      Frame.Reply, executor = id, task = asked, payload = messages.serialize(response)))
    override def sendFailure(e: Throwable): Unit = reply(e)
  }
}

private[spark] object ExternalExecutor {

  val IdleCheckMs = 500L

  /** Results stay on the stream: behind NAT nobody can fetch them from the block manager. */
  private val Overrides = Map(
    "spark.task.maxDirectResultSize" -> (Int.MaxValue / 2).toString,
    "spark.rpc.message.maxSize" -> "2047")

  /** Reads one line of JSON, `common.messages.ExecutorLaunch`, from standard input. */
  def main(args: Array[String]): Unit = {
    val launch = new ObjectMapper().readTree(StdIn.readLine())
    val conf = launch.get("conf")
    conf.fieldNames.forEachRemaining(key => sys.props(key) = conf.get(key).asText)
    val host = launch.get("host").asText
    val arguments = CoarseGrainedExecutorBackend.parseArguments(Array(
      "--driver-url", launch.get("driver_url").asText,
      "--executor-id", launch.get("executor").asText,
      "--bind-address", host,
      "--hostname", host,
      "--cores", launch.get("slots").asText,
      "--app-id", launch.get("application").asText), getClass.getName)
    CoarseGrainedExecutorBackend.run(arguments, (rpcEnv, parsed, env, profile) => {
      Overrides.foreach { case (key, value) => env.conf.set(key, value) }
      LocalPython.use(env, launch.get("pythons"))
      new ExternalExecutor(rpcEnv, parsed, env, profile, launch)
    })
    System.exit(0)
  }
}
