#!lua flags=allow-oom
-- renew: keep the leases of the living, by the server's clock.
--
-- convq:{M}:leases  ZADD
-- convq:{M}:cfg     HSET heard_ms: the server's time of the last call, by anybody
--
-- KEYS  leases, cfg
-- ARGV  lease_ms, "take" (make the leases) or "renew" (only those that are still there), incarnation…
-- Reply the incarnations that have no lease any more: others own their jobs now
--
-- Every live service calls this at least four times per lease. Nobody has for half a lease, or the clock went back: the
-- server itself was away (stopped, restarted, failed over), and the leases say nothing about the workers. Then all of
-- them are extended once, so that nobody is declared dead for it.
-- allow-oom: at maxmemory every worker would else lose its lease at once.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = now + tonumber(ARGV[1])

local heard = tonumber(redis.call('HGET', KEYS[2], 'heard_ms') or now)
redis.call('HSET', KEYS[2], 'heard_ms', now)
if now < heard or now - heard > tonumber(ARGV[1]) / 2 then
  for _, incarnation in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    redis.call('ZADD', KEYS[1], expiry, incarnation)
  end
end

local gone = {}
for i = 3, #ARGV do
  if ARGV[2] == 'take' or redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], expiry, ARGV[i])
  else
    gone[#gone + 1] = ARGV[i]
  end
end
return gone
