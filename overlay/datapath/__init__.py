"""Packet movers behind one protocol, and the choice between them."""
