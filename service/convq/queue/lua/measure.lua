#!lua flags=allow-oom
-- measure: what the door must know of one shard: its limits, its bytes, and how fast it drains.
--
-- convq:{M}:cfg               HMGET; HSET max_jobs, max_bytes, drain_per_s, drain_full, drain_ms, drain_answered, drain_waits
-- convq:{M}:door              HSET bytes: what producers count on from there
-- convq:{M}:jobs[:high|:low]  XLEN, XPENDING
--
-- KEYS  cfg, high, jobs, low; the name of door is made from that of cfg, as in door.lua
-- ARGV  group, max_jobs, max_bytes, bytes
-- Reply 1
--
-- complete.lua counts what was answered in `answered`; what it grew by between two looks, by the server's clock, is a sample
-- of the rate. Several services call this: looks closer together than LEAST_MS are one. While jobs wait, the service does
-- what it can, and the sample is smoothed in; while none does, it does what comes in, and the sample is only a lower bound:
-- `drain_full` says whether there was ever a better one.
-- allow-oom: at maxmemory the door is needed most.

local LEAST_MS, MOST_MS, SMOOTH_MS = 500, 10000, 3000

local cfg = KEYS[1]
redis.call('HSET', cfg, 'max_jobs', ARGV[2], 'max_bytes', ARGV[3])
redis.call('HDEL', cfg, 'bytes') -- there clients of before the door had a key of its own have counted, and nobody reads it now
redis.pcall('HSET', (string.gsub(cfg, 'cfg$', 'door')), 'bytes', ARGV[4])

local now = now_ms()
local facts = redis.call('HMGET', cfg, 'answered', 'drain_answered', 'drain_ms', 'drain_waits', 'drain_per_s', 'drain_full')
local answered, before, at = count(facts[1]) or 0, count(facts[2]) or 0, count(facts[3])
local waited, rate, full = facts[4] == '1', count(facts[5]), facts[6] == '1'
if facts[1] and not count(facts[1]) then
  redis.call('HDEL', cfg, 'answered') -- nobody could count on from it
end
if at and now >= at and now - at < LEAST_MS then
  return 1
end

local waiting = 0
for lane = 2, 4 do
  local length, pending = redis.pcall('XLEN', KEYS[lane]), redis.pcall('XPENDING', KEYS[lane], ARGV[1])
  if type(length) == 'number' then -- a key that is something else has nothing to drain
    waiting = waiting + length - (pending.err and 0 or pending[1])
  end
end

if at and now >= at and now - at <= MOST_MS and answered >= before then
  local sample, busy = (answered - before) * 1000 / (now - at), waited and waiting > 0
  if busy and full and rate > 0 then
    rate = rate + (1 - math.exp((at - now) / SMOOTH_MS)) * (sample - rate)
  elseif busy then
    rate, full = sample, true
  else
    rate = math.max(rate or 0, sample)
  end
end
redis.call('HSET', cfg, 'drain_ms', now, 'drain_answered', answered, 'drain_waits', waiting > 0 and 1 or 0)
if rate then
  redis.call('HSET', cfg, 'drain_per_s', string.format('%.4f', rate), 'drain_full', full and 1 or 0)
end
return 1
