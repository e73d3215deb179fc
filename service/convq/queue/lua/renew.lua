#!lua flags=allow-oom
-- renew: keep the leases of the living, by the server's clock.
--
-- convq:{M}:leases  ZADD
-- convq:{M}:cfg     HSET heard_ms: the server's time of the last call, by anybody; grace_ms: until when nobody is declared dead
--
-- KEYS  leases, cfg
-- ARGV  lease_ms, "take" (make the leases) or "renew" (only those that are still there), incarnation…
-- Reply the incarnations that have no lease any more: others own their jobs now
--
-- Every live service calls this at least four times per lease. Nobody has for half a lease, or the clock went back: the
-- server itself was away (stopped, restarted, failed over), and the leases say nothing about the workers. Then nobody is
-- declared dead for half a lease, in which the living renew, run out or not. Not again within a lease: a service that dies
-- and starts over and over must not keep the leases of its dead alive.
-- allow-oom: at maxmemory every worker would else lose its lease at once.
--
-- A lease that is good for longer than any service gives one was not given by one: it is cut to the usual time, or nobody would
-- ever take over what is pending under that name. Where cfg is something else, leases are kept without it.

local LONGEST_MS, AT_ONCE = 3600000, 100

local now = now_ms()
local lease = tonumber(ARGV[1])

local facts = redis.pcall('HMGET', KEYS[2], 'heard_ms', 'grace_ms')
local heard, grace = count(facts[1]) or now, count(facts[2]) or 0
if grace - now > lease then
  grace = 0
end
local back = now < heard
if back or (now - heard > lease / 2 and now > grace + lease) then
  redis.pcall('HSET', KEYS[2], 'grace_ms', now + lease / 2)
end
if back then -- leases of the time before would last until the clock has come that far again
  for _, incarnation in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now + lease, '+inf')) do
    redis.call('ZADD', KEYS[1], now + lease, incarnation)
  end
end
redis.pcall('HSET', KEYS[2], 'heard_ms', now)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now + lease + LONGEST_MS, '+inf', 'LIMIT', 0, AT_ONCE)) do
  redis.call('ZADD', KEYS[1], now + lease, name)
end

local gone = {}
for i = 3, #ARGV do
  if ARGV[2] == 'take' or redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], now + lease, ARGV[i])
  else
    gone[#gone + 1] = ARGV[i]
  end
end
return gone
