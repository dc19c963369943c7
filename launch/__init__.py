"""The entry points. Nothing imports this package."""
