"""HOW IT FEELS: requests in, latencies out, by a simulation of the engine's scheduler over the costs of its steps."""
