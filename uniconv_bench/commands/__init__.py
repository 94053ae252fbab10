"""The commands of the command line: parse, delegate, print. Heavy imports inside functions."""
