"""Commands that look at a whole pool for minutes: under chaos, and for leaks."""
