"""The code that runs on the person's device only."""
