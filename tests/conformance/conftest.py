"""Fixtures that several of the tables share."""

from cluster_target import target

__all__ = ["target"]
