#!lua flags=no-writes
-- depth: how much one shard holds, without moving an image over the wire.
--
-- convq:{M}:jobs[:high|:low]  XLEN, XINFO GROUPS, XINFO CONSUMERS, XRANGE of the oldest entry
-- convq:{M}:dead              XLEN
--
-- KEYS  high, jobs, low, dead
-- ARGV  group
-- Reply the length of dead, then per lane: length, pending, lag (-1: the server cannot tell), age of the oldest entry in ms,
--       longest idle time of a consumer in ms

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function fact(flat, name)
  for i = 1, #flat, 2 do
    if flat[i] == name then
      return flat[i + 1]
    end
  end
end

local reply = { redis.call('XLEN', KEYS[4]) }
for lane = 1, 3 do
  local stream = KEYS[lane]
  local length, pending, lag, age, idle = redis.call('XLEN', stream), 0, 0, 0, 0
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    for _, group in ipairs(groups) do
      if fact(group, 'name') == ARGV[1] then
        pending, lag = fact(group, 'pending'), fact(group, 'lag') or -1
      end
    end
  end
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if head then
    age = math.max(0, now - tonumber(string.match(head[1], '^%d+')))
  end
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[1])
  if not consumers.err then
    for _, consumer in ipairs(consumers) do
      idle = math.max(idle, fact(consumer, 'idle'))
    end
  end
  for _, value in ipairs({ length, pending, lag, age, idle }) do
    reply[#reply + 1] = value
  end
end
return reply
