"""HOW MUCH: operators, the graph that they form, and its verification."""
