"""Comparisons with other programs on the same machine, in one run, as ratios: asked for by hand."""
