"""Sockets to bytes: listeners, connections, and the loop that drives them."""
