"""The named studies: a card each, and how their conditions are run, compared and drawn."""
