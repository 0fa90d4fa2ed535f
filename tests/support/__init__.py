"""Shared by several test folders: oracles and vectors."""
