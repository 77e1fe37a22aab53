"""The dispatcher: knows the workers, and pushes tasks to them."""
