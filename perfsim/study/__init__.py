"""WHAT FOLLOWS: whatever simulates more than once, or writes what a simulation found."""
