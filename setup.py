"""Lets `pip install -e .` find setup.cfg without a pyproject.toml."""

from setuptools import setup

setup()
