package org.apache.spark.external

import java.io.{File, FileInputStream}
import java.util.{Collections, Map => JavaMap, Properties}

import org.apache.spark.{SparkConf, SparkContext, SparkException}
import org.apache.spark.api.plugin.{DriverPlugin, ExecutorPlugin, PluginContext, SparkPlugin}

/**
 * How Spark finds us: named in `spark.plugins`, made with the driver's live configuration.
 *
 * It takes its own name out of that configuration, because executors of a cluster manager
 * would look for a class that only the driver has.
 */
class ExternalSparkPlugin(conf: SparkConf) extends SparkPlugin {
  private val home = Home.find()
  private val destination = home.destination

  conf.set("spark.plugins", conf.get("spark.plugins").split(',').map(_.trim)
    .filterNot(_ == classOf[ExternalSparkPlugin].getName).mkString(","))
  if (destination == Home.Internal && Master.isExternal(conf)) conf.set("spark.master", "local[*]")

  override def driverPlugin(): DriverPlugin =
    if (destination == Home.Internal) null else new ExternalDriverPlugin(home, destination)

  override def executorPlugin(): ExecutorPlugin = null
}

private class ExternalDriverPlugin(home: Home, destination: String) extends DriverPlugin {

  override def init(sc: SparkContext, context: PluginContext): JavaMap[String, String] = {
    val inside = Master.takeOver(sc)
    if (destination == Home.External) sc.conf.set("spark.dynamicAllocation.enabled", "false")
    ExternalDriverPlugin.Defaults.foreach { case (key, value) => sc.conf.setIfMissing(key, value) }
    ExternalPool.open(sc, home, inside)
    Collections.emptyMap()
  }

  /** By now the scheduler runs, whichever it is. */
  override def registerMetrics(appId: String, context: PluginContext): Unit =
    ExternalPool.current.foreach(_.awaitAgent())

  override def shutdown(): Unit = ExternalPool.close()
}

private object ExternalDriverPlugin {

  /** Settings that fit executors which come and go; what the job sets itself wins. */
  val Defaults: Map[String, String] = Map(
    // A volunteer that dies costs its shuffle output: four of them must not end the stage.
    "spark.stage.maxConsecutiveAttempts" -> "100",
    // One that says goodbye hands it on, without half a minute between its last task and a look
    // at what is left to be moved.
    "spark.decommission.enabled" -> "true",
    "spark.storage.decommission.enabled" -> "true",
    "spark.storage.decommission.replicationReattemptInterval" -> "1s",
    // Nor does the end of a job wait for a silent one to say that it has cleaned up.
    "spark.cleaner.referenceTracking.blocking" -> "false")
}

/** The installation that this jar belongs to. */
private[spark] class Home(val root: File) {

  def python: File = {
    val python = new File(root, "venv/bin/python")
    if (!python.canExecute) {
      throw new SparkException(s"Spark-Proxy: there is no environment in $root/venv. " +
        "Run sbin/setup.sh there, or set EXTERNAL_SPARK_HOME to where Spark-Proxy is installed.")
    }
    python
  }

  /** `reschedule.dst.executor`, the one key that must be known before the agent is started. */
  def destination: String = {
    val file = new File(confDir, "common.properties")
    val properties = new Properties()
    if (file.isFile) {
      val in = new FileInputStream(file)
      try properties.load(in) finally in.close()
    }
    val key = "reschedule.dst.executor"
    val value = Option(properties.getProperty(key)).map(_.trim).filter(_.nonEmpty)
      .getOrElse(Home.External)
    if (!Home.Destinations.contains(value)) {
      throw new SparkException(s"Spark-Proxy: $file: $key: '$value' is not valid: expected " +
        Home.Destinations.mkString("one of ", ", ", ""))
    }
    value
  }

  private def confDir: File = Home.folder("EXTERNAL_SPARK_CONF_DIR").getOrElse(new File(root, "conf"))
}

private[spark] object Home {
  val External = "external"
  val Internal = "internal"
  val Destinations: Seq[String] = Seq(External, Internal, "hybrid")

  /** `EXTERNAL_SPARK_HOME`, or the home whose `jars` folder this class was loaded from. */
  def find(): Home = {
    def ofJar = new File(getClass.getProtectionDomain.getCodeSource.getLocation.toURI)
      .getParentFile.getParentFile
    new Home(folder("EXTERNAL_SPARK_HOME").getOrElse(ofJar))
  }

  private def folder(variable: String): Option[File] =
    sys.env.get(variable).filter(_.nonEmpty).map(new File(_))
}
