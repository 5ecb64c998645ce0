"""Foresight: the chance that a session's next request comes in time and goes to Opus, and when."""
