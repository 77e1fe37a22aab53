"""The agent: one per driver, forwards its tasks and hands it the results."""
