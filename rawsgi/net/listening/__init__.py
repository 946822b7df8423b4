"""Clients come in: `listener` opens the addresses, `acceptor` lets clients in and makes room for
them, `neighbour` finds out who has an address that is taken."""
