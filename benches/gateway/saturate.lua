-- wrk's half of a saturation point: POST one body over and over; say what happened as one line of JSON.
-- Arguments: the body's file, the path, the bearer key.

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  wrk.path = args[2]
  wrk.headers["content-type"] = "application/json"
  wrk.headers["authorization"] = "Bearer " .. args[3]
  file:close()
  -- Built once: a table look-up per request would make the load dearer than the upstream.
  local request = wrk.format()
  wrk.request = function() return request end
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format(
    '{"requests":%d,"seconds":%.3f,"errors":%d,"p50_ms":%.3f,"p99_ms":%.3f}',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
