package org.apache.spark.external

import java.io.{InputStream, ObjectInputStream, ObjectStreamClass}
import java.nio.ByteBuffer

import scala.reflect.ClassTag

import com.fasterxml.jackson.databind.JsonNode

import org.apache.spark.{SparkConf, SparkEnv}
import org.apache.spark.api.python.SimplePythonFunction
import org.apache.spark.serializer.{JavaSerializer, JavaSerializerInstance, SerializerInstance}
import org.apache.spark.util.ByteBufferInputStream

/**
 * Python functions name the interpreter of the driver's machine, by its path there. Here they
 * run with this machine's interpreter of the same minor version: the name is exchanged while
 * a task is deserialized.
 */
private[spark] object LocalPython {

  def use(env: SparkEnv, pythons: JsonNode): Unit = if (pythons.size > 0) {
    // SparkEnv makes its closure serializer itself and offers no setting for another.
    val field = classOf[SparkEnv].getDeclaredField("closureSerializer")
    field.setAccessible(true)
    field.set(env, new LocalPythonSerializer(env.conf, pythons))
  }
}

private class LocalPythonSerializer(conf: SparkConf, pythons: JsonNode)
  extends JavaSerializer(conf) {

  override def newInstance(): SerializerInstance = {
    val loader = defaultClassLoader.getOrElse(Thread.currentThread.getContextClassLoader)
    // As in JavaSerializer: reset the stream every 100 objects, and explain what can't be written.
    new JavaSerializerInstance(100, true, loader) {
      override def deserialize[T: ClassTag](bytes: ByteBuffer): T = deserialize(bytes, loader)

      override def deserialize[T: ClassTag](bytes: ByteBuffer, loader: ClassLoader): T =
        new LocalPythonStream(new ByteBufferInputStream(bytes), loader, pythons)
          .readObject().asInstanceOf[T]
    }
  }
}

private class LocalPythonStream(in: InputStream, loader: ClassLoader, pythons: JsonNode)
  extends ObjectInputStream(in) {

  enableResolveObject(true)

  override def resolveClass(description: ObjectStreamClass): Class[_] =
    try Class.forName(description.getName, false, loader)
    catch { case _: ClassNotFoundException => super.resolveClass(description) }

  override def resolveObject(value: AnyRef): AnyRef = value match {
    case function: SimplePythonFunction if pythons.has(function.pythonVer) =>
      function.copy(pythonExec = pythons.get(function.pythonVer).asText)
    case other => other
  }
}
