"""The worker: runs executor JVMs for applications and sends their results to the drivers."""
