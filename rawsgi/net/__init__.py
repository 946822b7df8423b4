"""Sockets to bytes, and the threads that see to it.

listening/   a client connects: addresses, accepting, room for one more
loop         one thread waits for all sockets; clock has the deadlines
client/      one client: its connection, its exchange, what waits for it or from it
crew/        the threads: who leads the loop, who runs requests, who waits
tap          for those who look on (`--wire`, `--record`)
"""
