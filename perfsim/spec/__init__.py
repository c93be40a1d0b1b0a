"""WHAT: hardware, model, plan and workload, and the scenario that they make up."""
