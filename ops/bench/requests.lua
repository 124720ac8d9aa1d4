-- wrk: the paths of the file BENCH_PATHS, each thread from its own start, over and over.
local count = 0
function setup(thread)
  thread:set("offset", count * 7919)
  count = count + 1
end

function init(_)
  requests = {}
  local headers = { ["Connection"] = "keep-alive" }
  for line in io.lines(os.getenv("BENCH_PATHS")) do
    local method, path, body = line:match("^(%u+)\t([^\t]+)\t?(.*)$")
    requests[#requests + 1] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
  position = offset % #requests
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
