package org.apache.spark.external

import java.io.{BufferedReader, InputStreamReader, IOException}
import java.net.{InetAddress, ServerSocket}
import java.nio.charset.StandardCharsets.UTF_8
import java.security.{MessageDigest, SecureRandom}
import java.util.Base64
import java.util.concurrent.TimeUnit

import py4j.{CallbackClient, GatewayServer}

import org.apache.spark.internal.Logging

/**
 * The agent beside this driver: a Python process, with py4j for control and one loopback
 * socket for frames, both opened by a token that it gets on its standard input.
 *
 * One that dies is started again and takes up what the one before it left: the executors stay
 * registered, and workers find it at the same port with the same token.
 */
private[spark] class AgentProcess(home: Home, pool: ExternalPool) extends Logging {

  private val loopback = InetAddress.getLoopbackAddress
  private val token = AgentProcess.newToken()
  private val resultsToken = AgentProcess.newToken()
  private val listener = new ServerSocket(0, 1, loopback)
  private val gateway = new GatewayServer.GatewayServerBuilder()
    .entryPoint(new AgentGateway(pool))
    .authToken(token)
    .javaAddress(loopback)
    .javaPort(0)
    // We never call into Python. The default client would keep a thread that is no daemon, and
    // with it a driver that never stops its SparkContext.
    .callbackClient(new CallbackClient(0, loopback, 0, TimeUnit.SECONDS))
    .build()

  @volatile private var process: Process = _
  @volatile private var channel: FrameChannel = _
  /** Where the agent takes results, 0 until the first one has said it. */
  @volatile var resultsPort: Int = 0

  def start(): Unit = {
    val python = home.python
    // Its threads inherit this one's being a daemon.
    daemon("external-agent-gateway")(gateway.start(true)).join()
    daemon("external-agent-channel")(acceptChannels())
    daemon("external-agent-process")(keepRunning(python.getPath))
  }

  /** While there is no agent nothing is sent: what counts is kept and sent again to the next. */
  def send(frame: Frame): Unit = {
    val open = channel
    if (open != null) open.send(frame)
  }

  /** The agent ends when its channel closes; it says goodbye to the dispatchers first. */
  def stop(): Unit = {
    if (channel != null) channel.close()
    listener.close()
    val running = process
    if (running != null && !running.waitFor(AgentProcess.StopSeconds, TimeUnit.SECONDS)) {
      logWarning("The agent did not end in time and is killed")
      running.destroyForcibly()
    }
    gateway.shutdown()
  }

  private def keepRunning(python: String): Unit = {
    var waitMs = AgentProcess.RestartMs
    while (!pool.isStopped) {
      val began = System.nanoTime()
      val end = try runOnce(python) catch { case e: IOException => s"cannot be started: $e" }
      if (pool.cannotStart) return
      if (!pool.isStopped) {
        pool.executors.agentEnded()
        logWarning(s"The agent $end, and is started again")
        Thread.sleep(waitMs)
        // Whatever is wrong may take its time to be mended; one that ran for a while is not it.
        val ranForS = TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - began)
        waitMs = if (ranForS > AgentProcess.SettledSeconds) AgentProcess.RestartMs
          else math.min(waitMs * 2, AgentProcess.LongestRestartMs)
      }
    }
  }

  /** One life of it; returns how it ended, for people. */
  private def runOnce(python: String): String = {
    val builder = new ProcessBuilder(python, "-m", "agent").directory(home.root)
      .redirectOutput(ProcessBuilder.Redirect.DISCARD)
    builder.environment.put("EXTERNAL_SPARK_HOME", home.root.getPath)
    // The driver's own Python settings are not for the agent's environment.
    Seq("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP").foreach(builder.environment.remove(_))
    process = builder.start()
    val in = process.getOutputStream
    in.write((s"$token ${gateway.getListeningPort} ${listener.getLocalPort} " +
      s"$resultsToken $resultsPort\n").getBytes(UTF_8))
    in.flush()
    val errors = new BufferedReader(new InputStreamReader(process.getErrorStream, UTF_8))
    val said = Iterator.continually(errors.readLine()).takeWhile(_ != null).toList
    val exit = process.waitFor()
    if (exit == AgentProcess.ConfigurationExit) pool.failToStart(said.mkString(" "))
    else said.foreach(line => logWarning(s"agent: $line"))
    s"ended with exit status $exit${if (exit == 2) said.mkString(" (", " ", ")") else ""}"
  }

  private def acceptChannels(): Unit = while (!pool.isStopped) {
    val socket = listener.accept()
    lazy val opened: FrameChannel = new FrameChannel("external-agent", onFrame = frame => {
      if (channel eq opened) pool.executors.take(frame)
      else if (isHello(frame)) { opened.maxFrameBytes = Int.MaxValue; channel = opened }
      else opened.close()
    }, onClose = () => if (channel eq opened) channel = null)
    // A stranger may not fill our memory.
    opened.maxFrameBytes = AgentProcess.MaxHelloBytes
    opened.start(socket)
  }

  private def isHello(frame: Frame): Boolean = {
    val shown = new Array[Byte](frame.payload.remaining())
    frame.payload.duplicate().get(shown)
    frame.kind == Frame.Hello && MessageDigest.isEqual(shown, token.getBytes(UTF_8))
  }

  private def daemon(name: String)(body: => Unit): Thread = {
    val run: Runnable = () => try body catch {
      case e: Exception => if (!pool.isStopped) pool.failToStart(s"the agent failed: $e")
    }
    val thread = new Thread(run, name)
    thread.setDaemon(true)
    thread.start()
    thread
  }
}

private object AgentProcess {
  /** What our command line exits with when the configuration is wrong. */
  val ConfigurationExit = 2
  val StopSeconds = 10L
  val RestartMs = 200L
  val LongestRestartMs = 10000L
  val SettledSeconds = 30L
  val MaxHelloBytes = 4096

  def newToken(): String = {
    val bytes = new Array[Byte](32)
    new SecureRandom().nextBytes(bytes)
    Base64.getUrlEncoder.withoutPadding.encodeToString(bytes)
  }
}

/** What the agent may call in this JVM, by py4j. */
class AgentGateway private[external] (pool: ExternalPool) extends Logging {

  def application(): String = pool.describe()

  def reserveExecutorIds(count: Int): Int = pool.reserveExecutorIds(count)

  def promise(slots: Int): Unit = pool.promise(slots)

  /** The port at which this agent takes results, for the agent that may have to follow it. */
  def listens(port: Int): Unit = pool.agentListens(port)

  /**
   * The executor is ready, or reached by another way than before: what it was sent and has not
   * confirmed is sent again, behind a RESUME frame.
   *
   * @return false when it was removed before, and is not taken back.
   */
  def registerExecutor(id: Int, host: String, port: Int, slots: Int, inside: Boolean): Boolean =
    pool.executors.register(id, host, port, slots, inside)

  /** No new task for this executor; Spark moves its blocks away. */
  def drainExecutor(id: Int, reason: String): Unit = pool.executors.drain(id, reason)

  def removeExecutor(id: Int, reason: String, byApplication: Boolean): Unit =
    pool.executors.remove(id, reason, byApplication)

  def failJobs(reason: String): Unit = pool.failJobs(reason)

  def warn(message: String): Unit = logWarning(message)

  def info(message: String): Unit = logInfo(message)
}
