"""WHEN: engines that run a task graph, and its timeline."""
