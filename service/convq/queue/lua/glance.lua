#!lua flags=no-writes
-- glance: how one shard does, for people: what waits and runs, who holds it, who sent it. No payload leaves the server.
-- Stands behind numbers.lua, drain.lua and lanes.lua.
--
-- convq:{M}:jobs[:high|:low]  XINFO STREAM, XINFO GROUPS, XINFO CONSUMERS; XRANGE, XREVRANGE of a few entries at either end
-- convq:{M}:leases            ZRANGE WITHSCORES
-- convq:{M}:cfg               HMGET
-- convq:{M}:door              HMGET
-- convq:{M}:dead              XLEN
--
-- KEYS  high, jobs, low, leases, cfg, dead; the name of door is made from that of cfg, as in door.lua
-- ARGV  group, the most leases to tell, the most entries to look at, the most bytes of them (one entry of each end in any case)
-- Reply {now in ms, {name, until when in ms, jobs held, ms since it last asked (-1: never); …}, {answered,
--       failed, max_jobs, max_bytes}, jobs answered a second as text (nil: not known), {bytes, refused_jobs, refused_bytes}, length of dead,
--       entries looked at, {what they say of their client: name, jobs; …}, then per lane {length, pending, lag (-1: the server cannot
--       tell), age of the oldest entry in ms (-1: none), entries ever added}}
--
-- Leases are nil where they cannot be read. What else the caller has no right to, or lies in a key of another type, is told as nothing. A name is cut to 65 bytes, which is one more
-- than one may have; entries without one count for "".

local LONGEST_NAME = 65

local now = now_ms()

local function rows(reply)
  return reply.err and {} or reply
end

local function texts(key, ...)
  local found = redis.pcall('HMGET', key, ...)
  if found.err then
    found = {}
  end
  for i = 1, select('#', ...) do
    found[i] = found[i] or false
  end
  return found
end

local held, asked = {}, {}
local function count_consumers(stream)
  for _, consumer in ipairs(rows(redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[1]))) do
    local name, idle = fact(consumer, 'name'), fact(consumer, 'idle')
    held[name] = (held[name] or 0) + fact(consumer, 'pending')
    asked[name] = math.min(asked[name] or idle, idle)
  end
end

local function glance_at(stream)
  local info, length, pending, lag = lane_of(stream, ARGV[1])
  if not info then
    return { 0, 0, 0, -1, 0 }
  end
  local oldest = fact(info, 'first-entry')
  local age = oldest and math.max(0, now - ms_of(oldest[1])) or -1
  return { length, pending, lag, age, fact(info, 'entries-added') }
end

-- Entries of one end of a stream, in portions whose size follows from how large they are: what is read passes through memory.
local seen, clients, order = 0, {}, {}
local function sample(command, stream, first, last, most, bytes, known)
  local portion = 1
  while most > 0 and bytes > 0 do
    local found = rows(redis.pcall(command, stream, first, last, 'COUNT', math.min(portion, most)))
    local largest = 1
    for _, entry in ipairs(found) do
      if known[entry[1]] then
        return
      end
      known[entry[1]], first = true, '(' .. entry[1]
      local name, size = '', 0
      for i = 1, #entry[2], 2 do
        size = size + #entry[2][i + 1]
        if entry[2][i] == 'client' then
          name = string.sub(entry[2][i + 1], 1, LONGEST_NAME)
        end
      end
      largest, bytes, seen, most = math.max(largest, size), bytes - size, seen + 1, most - 1
      if not clients[name] then
        order[#order + 1] = name
      end
      clients[name] = (clients[name] or 0) + 1
    end
    if #found < portion then
      return
    end
    portion = math.max(1, math.min(25, math.floor(bytes / (4 * largest))))
  end
end

local lanes, lengths = {}, 0
for lane = 1, 3 do
  lanes[lane] = glance_at(KEYS[lane])
  lengths = lengths + lanes[lane][1]
  count_consumers(KEYS[lane])
end
for lane = 1, 3 do
  local length = lanes[lane][1]
  if length > 0 then -- as much of each lane as it has of all jobs
    local share, known = length / lengths / 2, {}
    local most, bytes = math.ceil(tonumber(ARGV[3]) * share), tonumber(ARGV[4]) * share
    sample('XREVRANGE', KEYS[lane], '+', '-', most, bytes, known)
    sample('XRANGE', KEYS[lane], '-', '+', most, bytes, known)
  end
end

local leases, scores = {}, redis.pcall('ZRANGE', KEYS[4], 0, ARGV[2] - 1, 'WITHSCORES')
for i = 1, #rows(scores), 2 do
  leases[#leases + 1] = scores[i]
  leases[#leases + 1] = scores[i + 1]
  leases[#leases + 1] = held[scores[i]] or 0
  leases[#leases + 1] = asked[scores[i]] or -1
end
local dead = redis.pcall('XLEN', KEYS[6])
local said = {}
for _, name in ipairs(order) do
  said[#said + 1] = name
  said[#said + 1] = clients[name]
end
return {
  now,
  not scores.err and leases,
  texts(KEYS[5], 'answered', 'failed', 'max_jobs', 'max_bytes'),
  drain_text(KEYS[5]),
  texts((string.gsub(KEYS[5], 'cfg$', 'door')), 'bytes', 'refused_jobs', 'refused_bytes'),
  type(dead) == 'number' and dead or 0,
  seen,
  said,
  lanes[1],
  lanes[2],
  lanes[3],
}
