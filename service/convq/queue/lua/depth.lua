#!lua flags=allow-oom
-- depth: elect the one service that exports a shard's queue, and tell it how much the shard holds, without moving an image.
-- Stands behind numbers.lua, drain.lua and lanes.lua.
--
-- convq:{M}:cfg               HMGET of limits; HSET, HDEL exporter, exporter_ms, exporter_term_ms
-- convq:{M}:door              HMGET of bytes and refused_*
-- convq:{M}:jobs[:high|:low]  XLEN, XINFO STREAM, XINFO GROUPS, XINFO CONSUMERS
-- convq:{M}:dead              XLEN
--
-- KEYS  high, jobs, low, dead, cfg; the name of door is made from that of cfg, as in door.lua
-- ARGV  group, name of the service, term in ms; with a term of 0 it gives the export up
-- Reply {jobs in the streams} to a service that is not elected. To the one that is also: the length of dead, jobs refused for their number and for
--       their bytes, then max_jobs, max_bytes, bytes and jobs answered a second as texts (false: not known), then per lane:
--       length, pending, lag (-1: the server cannot tell), age of the oldest entry in ms, longest idle time of a consumer
--       in ms, entries ever added, by how many ms the id that the next entry must exceed is ahead of the clock, id of the oldest
--       entry where that is ahead itself, so that its age is not known
--
-- Who holds the export keeps it as long as it calls this within its term; then whoever calls first gets it. A renewal from
-- the future means that the clock went back: it counts for nothing, or nobody would export until the clock is there again.
-- allow-oom: at maxmemory the numbers are needed most.

local LONGEST_TERM_MS = 4000 -- as in supervision.py: a longer one was granted by nobody

local now = now_ms()

local function elected(cfg, name, term)
  local facts = redis.call('HMGET', cfg, 'exporter', 'exporter_ms', 'exporter_term_ms')
  local holder, since, granted = facts[1], count(facts[2]), count(facts[3])
  granted = granted and math.min(granted, LONGEST_TERM_MS)
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

local function depth_of(stream)
  local info, length, pending, lag = lane_of(stream, ARGV[1])
  if not info then -- not there, or something else: no jobs in it
    return { 0, 0, 0, 0, 0, 0, 0, '' }
  end
  local age, idle = 0, 0
  local oldest, unknown = fact(info, 'first-entry'), ''
  if oldest then
    age = now - ms_of(oldest[1])
    if age < 0 then
      age, unknown = 0, oldest[1]
    end
  end
  local ahead = math.min(math.max(0, ms_of(fact(info, 'last-generated-id')) - now), 2 ^ 53)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[1])
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    idle = math.max(idle, fact(consumer, 'idle'))
  end
  return { length, pending, lag, age, idle, fact(info, 'entries-added'), ahead, unknown }
end

local jobs = 0
for lane = 1, 3 do
  local length = redis.pcall('XLEN', KEYS[lane])
  jobs = jobs + (type(length) == 'number' and length or 0)
end
if not elected(KEYS[5], ARGV[2], tonumber(ARGV[3])) then
  return { jobs }
end

local facts = redis.call('HMGET', KEYS[5], 'max_jobs', 'max_bytes')
local door = redis.pcall('HMGET', (string.gsub(KEYS[5], 'cfg$', 'door')), 'refused_jobs', 'refused_bytes', 'bytes')
local dead = redis.pcall('XLEN', KEYS[4])
local reply = { jobs, type(dead) == 'number' and dead or 0, count(door[1]) or 0, count(door[2]) or 0 }
for _, known in ipairs({ count(facts[1]) or false, count(facts[2]) or false, count(door[3]) or false }) do
  reply[#reply + 1] = known and string.format('%.0f', known)
end
reply[#reply + 1] = drain_text(KEYS[5])
for lane = 1, 3 do
  for _, value in ipairs(depth_of(KEYS[lane])) do
    reply[#reply + 1] = value
  end
end
return reply
