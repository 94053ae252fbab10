"""The sample data, written by this project: worlds, generator, and its committed output."""
