"""What scores by turn say of a system, and of the difference between two.

Turns of one conversation are not independent, so conversations are what is drawn, flipped and
counted everywhere. Knows numbers alone: no record, no task, no metric.
"""
