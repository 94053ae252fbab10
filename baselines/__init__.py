"""The runnable systems: cards, and code where a card cannot say it."""
