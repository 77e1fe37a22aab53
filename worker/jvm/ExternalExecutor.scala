package org.apache.spark.external

import java.nio.ByteBuffer
import java.nio.charset.StandardCharsets.UTF_8

import scala.concurrent.Future
import scala.io.StdIn
import scala.reflect.ClassTag

import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}

import org.apache.spark.SparkEnv
import org.apache.spark.executor.CoarseGrainedExecutorBackend
import org.apache.spark.resource.ResourceProfile
import org.apache.spark.rpc.{RpcAddress, RpcCallContext, RpcEndpointRef, RpcEnv, RpcTimeout}
import org.apache.spark.scheduler.cluster.CoarseGrainedClusterMessages.{LaunchTask, StatusUpdate}
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
    case Frame.Launch => receive(LaunchTask(new SerializableBuffer(frame.payload)))
    case Frame.Message =>
      val message = messages.deserialize[Any](frame.payload)
      if (frame.sequence == 0) receive(message)
      else receiveAndReply(new ReplyByChannel(frame.sequence))(message)
    case other => logWarning(s"Ignoring a frame of kind $other")
  }

  // Nobody hears of this process any more, and what it holds has been given up.
  private def workerGone(): Unit = if (!stopping.get()) Runtime.getRuntime.halt(1)

  /** The driver, as the executor sees it: task states go by channel, all else by Spark's RPC. */
  private class DriverByChannel(real: RpcEndpointRef) extends RpcEndpointRef(env.conf) {
    private var sequence = 0L

    override def address: RpcAddress = real.address
    override def name: String = real.name
    override def ask[T: ClassTag](message: Any, timeout: RpcTimeout): Future[T] =
      real.ask[T](message, timeout)
    override def send(message: Any): Unit = message match {
      case update: StatusUpdate => sendStatus(update)
      case other => real.send(other)
    }

    // Numbered and queued in one step, or a later number could go out first.
    private def sendStatus(update: StatusUpdate): Unit = synchronized {
      sequence += 1
      channel.send(Frame(Frame.Status, state = update.state.id, executor = id,
        task = update.taskId, sequence = sequence, payload = update.data.value))
    }
  }

  /** Answers what the driver asked in a frame with a sequence number. */
  private class ReplyByChannel(sequence: Long) extends RpcCallContext {
    override def senderAddress: RpcAddress = driver.get.address
    override def reply(response: Any): Unit = channel.send(Frame(
      Frame.Reply, executor = id, sequence = sequence, payload = messages.serialize(response)))
    override def sendFailure(e: Throwable): Unit = reply(e)
  }
}

private[spark] object ExternalExecutor {

  /** Settings that fit executors behind a task stream; what the application sets itself wins. */
  private val Defaults = Map(
    // A peer that is gone is noticed within a heartbeat limit, not after spark.network.timeout.
    "spark.shuffle.io.connectionTimeout" -> "10s")

  /** Results stay on the stream: behind NAT nobody can fetch them from the block manager. */
  private val Overrides = Map(
    "spark.task.maxDirectResultSize" -> (Int.MaxValue / 2).toString,
    "spark.rpc.message.maxSize" -> "2047")

  /** Reads one line of JSON, `common.messages.ExecutorLaunch`, from standard input. */
  def main(args: Array[String]): Unit = {
    val launch = new ObjectMapper().readTree(StdIn.readLine())
    Defaults.foreach { case (key, value) => sys.props(key) = value }
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
