"""A compose project, and the program that updates it."""
