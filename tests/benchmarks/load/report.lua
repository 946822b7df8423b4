-- Makes wrk print its figures on one line that a program can read.
-- Arguments after "--": a method and a file with the content to send.

function init(arguments)
  if arguments[1] then
    wrk.method = arguments[1]
    local file = assert(io.open(arguments[2], "rb"))
    wrk.body = file:read("*a")
    file:close()
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "figures duration_us=%d requests=%d bytes=%d p50_us=%d p99_us=%d max_us=%d" ..
    " connect=%d read=%d write=%d status=%d timeout=%d\n",
    summary.duration, summary.requests, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
