#!lua flags=allow-oom
-- depth: elect the one service that exports a shard's queue, and tell it how much the shard holds, without moving an image.
--
-- convq:{M}:cfg               HMGET of limits, bytes, drain_*, refused_*; HSET, HDEL exporter, exporter_ms, exporter_term_ms
-- convq:{M}:jobs[:high|:low]  XINFO STREAM, XINFO GROUPS, XINFO CONSUMERS
-- convq:{M}:dead              XLEN
--
-- KEYS  high, jobs, low, dead, cfg
-- ARGV  group, name of the service, term in ms; with a term of 0 it gives the export up
-- Reply {} to a service that is not elected. To the one that is: the length of dead, jobs refused for their number and for
--       their bytes, then max_jobs, max_bytes, bytes and jobs answered a second as texts (false: not known), then per lane:
--       length, pending, lag (-1: the server cannot tell), age of the oldest entry in ms, longest idle time of a consumer
--       in ms, entries ever added
--
-- Who holds the export keeps it as long as it calls this within its term; then whoever calls first gets it. A renewal from
-- the future means that the clock went back: it counts for nothing, or nobody would export until the clock is there again.
-- allow-oom: at maxmemory the numbers are needed most.

local RATE_LASTS_MS = 10000 -- as in door.lua: an older drain rate says nothing

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function fact(flat, name)
  for i = 1, #flat, 2 do
    if flat[i] == name then
      return flat[i + 1]
    end
  end
end

local function elected(cfg, name, term)
  local facts = redis.call('HMGET', cfg, 'exporter', 'exporter_ms', 'exporter_term_ms')
  local holder, since, granted = facts[1], tonumber(facts[2]), tonumber(facts[3])
  local held = holder and since and granted and now >= since and now - since < granted
  if held and holder ~= name then
    return false
  end
  if term > 0 then
    redis.call('HSET', cfg, 'exporter', name, 'exporter_ms', now, 'exporter_term_ms', term)
  elseif holder == name then
    redis.call('HDEL', cfg, 'exporter', 'exporter_ms', 'exporter_term_ms')
  end
  return term > 0
end

local function drain_rate(rate, measured, full)
  return full == '1' and measured and math.abs(now - tonumber(measured)) <= RATE_LASTS_MS and rate
end

local function depth_of(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then -- not there, or something else: no jobs in it
    return { 0, 0, 0, 0, 0, 0 }
  end
  local pending, lag, age, idle = 0, fact(info, 'length'), 0, 0
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if fact(group, 'name') == ARGV[1] then
      pending, lag = fact(group, 'pending'), fact(group, 'lag') or -1
    end
  end
  local oldest = fact(info, 'first-entry')
  if oldest then
    age = math.max(0, now - tonumber(string.match(oldest[1], '^%d+')))
  end
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[1])
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    idle = math.max(idle, fact(consumer, 'idle'))
  end
  return { fact(info, 'length'), pending, lag, age, idle, fact(info, 'entries-added') }
end

if not elected(KEYS[5], ARGV[2], tonumber(ARGV[3])) then
  return {}
end

local facts = redis.call('HMGET', KEYS[5], 'refused_jobs', 'refused_bytes', 'max_jobs', 'max_bytes', 'bytes',
  'drain_per_s', 'drain_ms', 'drain_full')
local dead = redis.pcall('XLEN', KEYS[4])
local reply = { type(dead) == 'number' and dead or 0, tonumber(facts[1] or 0), tonumber(facts[2] or 0) }
for i = 3, 5 do
  reply[#reply + 1] = facts[i]
end
reply[#reply + 1] = drain_rate(facts[6], facts[7], facts[8])
for lane = 1, 3 do
  for _, value in ipairs(depth_of(KEYS[lane])) do
    reply[#reply + 1] = value
  end
end
return reply
