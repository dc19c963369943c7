"""Pure functions on strings, sets and arrays. The lowest package: it imports none of the others."""
