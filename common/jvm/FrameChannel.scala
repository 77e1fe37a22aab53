package org.apache.spark.external

import java.io.{BufferedInputStream, BufferedOutputStream, DataInputStream, DataOutputStream, IOException}
import java.net.{InetAddress, Socket}
import java.nio.ByteBuffer
import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.atomic.AtomicBoolean

/** One data message; `common/frames.py` documents the fields. */
private[spark] final case class Frame(
    kind: Byte,
    state: Int = 0,
    flags: Int = 0,
    executor: Int = 0,
    app: Long = 0,
    task: Long = Frame.NoTask,
    sequence: Long = 0,
    payload: ByteBuffer = Frame.Empty)

private[spark] object Frame {
  val Version: Byte = 1
  val HeaderBytes = 36
  val NoTask = -1L
  val FlagBarrier = 1
  val FlagAsk = 1
  val Empty: ByteBuffer = ByteBuffer.allocate(0).asReadOnlyBuffer()

  val Hello: Byte = 1
  val Ready: Byte = 2
  val Launch: Byte = 3
  val Message: Byte = 4
  val Status: Byte = 5
  val Reply: Byte = 6
  val Ack: Byte = 7
  val Sync: Byte = 8
  val Ping: Byte = 10
  val Resume: Byte = 11

  /** @throws IOException when what comes is no frame, or one of more than so many bytes. */
  def read(in: DataInputStream, maxBytes: Int): Frame = {
    val length = in.readInt()
    val version = in.readByte()
    if (version != Version || length < HeaderBytes - 4 || length > maxBytes) {
      throw new IOException(s"malformed frame: version $version, length $length")
    }
    val frame = Frame(in.readByte(), in.readUnsignedByte(), in.readUnsignedByte(), in.readInt(),
      in.readLong(), in.readLong(), in.readLong())
    val payload = new Array[Byte](length - (HeaderBytes - 4))
    in.readFully(payload)
    frame.copy(payload = ByteBuffer.wrap(payload))
  }

  def write(out: DataOutputStream, frame: Frame): Unit = {
    val payload = frame.payload.duplicate()
    out.writeInt(HeaderBytes - 4 + payload.remaining())
    out.writeByte(Version)
    out.writeByte(frame.kind)
    out.writeByte(frame.state)
    out.writeByte(frame.flags)
    out.writeInt(frame.executor)
    out.writeLong(frame.app)
    out.writeLong(frame.task)
    out.writeLong(frame.sequence)
    if (payload.hasArray) {
      out.write(payload.array(), payload.arrayOffset() + payload.position(), payload.remaining())
    } else {
      val bytes = new Array[Byte](payload.remaining())
      payload.get(bytes)
      out.write(bytes)
    }
  }
}

/**
 * Frames over one loopback socket, between a JVM and the Python process beside it.
 *
 * Sending never blocks the caller, which may be Spark's scheduler. What waits is bounded by
 * the slots: Spark launches no further task on a slot before its result has gone out.
 */
private[spark] final class FrameChannel(name: String, onFrame: Frame => Unit, onClose: () => Unit) {

  private val outgoing = new LinkedBlockingQueue[Frame]()
  private val closed = new AtomicBoolean(false)

  @volatile var maxFrameBytes: Int = Int.MaxValue
  @volatile private var socket: Socket = _

  /** Connects to a Python process that listens on loopback, and shows it the token. */
  def connect(port: Int, token: String): Unit = {
    outgoing.put(Frame(Frame.Hello, payload = ByteBuffer.wrap(token.getBytes(UTF_8))))
    start(new Socket(InetAddress.getLoopbackAddress, port))
  }

  /** Reads and writes frames on a connected socket until either side closes it. */
  def start(connected: Socket): Unit = {
    connected.setTcpNoDelay(true)
    socket = connected
    daemon("reader")(readAll())
    daemon("writer")(writeAll())
  }

  def send(frame: Frame): Unit = outgoing.put(frame)

  def close(): Unit = if (closed.compareAndSet(false, true)) {
    socket.close()
    // The writer waits for something to write, and ends when it cannot.
    outgoing.put(Frame(Frame.Ping))
    onClose()
  }

  private def daemon(role: String)(body: => Unit): Unit = {
    val run: Runnable = () => try body catch { case _: IOException => } finally close()
    val thread = new Thread(run, s"$name-$role")
    thread.setDaemon(true)
    thread.start()
  }

  private def readAll(): Unit = {
    val in = new DataInputStream(new BufferedInputStream(socket.getInputStream, 1 << 16))
    while (!closed.get()) onFrame(Frame.read(in, maxFrameBytes))
  }

  private def writeAll(): Unit = {
    val out = new DataOutputStream(new BufferedOutputStream(socket.getOutputStream, 1 << 16))
    while (!closed.get()) {
      // Whatever is there goes out in one write; the flush waits for an empty queue.
      var next = outgoing.take()
      while (next != null) {
        Frame.write(out, next)
        next = outgoing.poll()
      }
      out.flush()
    }
  }
}
