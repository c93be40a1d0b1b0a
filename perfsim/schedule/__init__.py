"""IN WHAT ORDER: pipeline schedules and the task graph that they make of a plan."""
