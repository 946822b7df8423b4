"""One client: `connection` has its socket and its states, `exchange` one request and its response
as the application sees them. `buffers` is what waits, both ways; `upload` and `inbox` hand content
over while it arrives."""
