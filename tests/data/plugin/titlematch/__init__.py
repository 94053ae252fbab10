"""A system of somebody else's, in a package of their own."""
