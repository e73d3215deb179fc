#!lua flags=allow-oom
-- renew: keep the leases of the living, by the server's clock.
--
-- convq:{M}:leases  ZADD
--
-- KEYS  leases
-- ARGV  lease_ms, "take" (make the leases) or "renew" (only those that are still there), incarnation…
-- Reply the incarnations that have no lease any more: others own their jobs now
--
-- allow-oom: at maxmemory every worker would else lose its lease at once.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = now + tonumber(ARGV[1])
local gone = {}
for i = 3, #ARGV do
  if ARGV[2] == 'take' or redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], expiry, ARGV[i])
  else
    gone[#gone + 1] = ARGV[i]
  end
end
return gone
