"""What agent, dispatcher and worker share."""
