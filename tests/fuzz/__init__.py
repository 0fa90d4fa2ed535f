"""Fuzz targets: to run for as long as one likes, not part of the ordinary tests."""
