-- wrk: the requests of the file BENCH_PATHS from line BENCH_START on, over and over.
-- A line: method, path and, for what has one, body, parted by tabs.
function init(_)
  requests = {}
  local headers = { ["Connection"] = "keep-alive" }
  local with_body = { ["Connection"] = "keep-alive", ["Content-Type"] = "application/json" }
  for line in io.lines(os.getenv("BENCH_PATHS")) do
    local method, path, body = line:match("^(%u+)\t([^\t]+)\t?(.*)$")
    local has = body ~= ""
    requests[#requests + 1] = wrk.format(method, path, has and with_body or headers, has and body or nil)
  end
  position = tonumber(os.getenv("BENCH_START") or "0") % #requests
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    "BENCH %d %d %d %d %.3f %.3f %.3f\n",
    summary.requests, summary.duration, summary.bytes,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
