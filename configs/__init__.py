"""The shipped experiments: one complete YAML file for each system."""
