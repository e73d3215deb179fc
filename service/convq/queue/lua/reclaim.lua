-- reclaim: take over jobs of workers that are dead (no lease, or a lease that ran out), and jobs that nobody holds: entries
-- that were delivered and are not pending any more, because somebody has deleted the consumer. Stands behind weight.lua.
--
-- convq:{M}:leases            ZREM of what ran out: the fence, from here on the old owner can commit nothing
-- convq:{M}:cfg               HMGET heard_ms, grace_ms, see renew.lua
-- convq:{M}:jobs[:high|:low]  XPENDING, XRANGE, XCLAIM to the caller, XGROUP DELCONSUMER of empty consumers of the dead; XACK of
--                             what somebody has deleted
-- convq:{M}:suspects          HGET: how much each job is suspected of having killed its worker, how often it decoded too slowly
--
-- KEYS  leases, cfg, high, jobs, low, suspects
-- ARGV  group, incarnation of the caller, lease_ms, room: how many jobs the caller takes at most, and how many bytes (of which
--       one job may be more), the consumer for what workers give back (see give_back.lua), most bytes of an image, of a tensor,
--       of all else, 1 where the caller takes what others gave back too
-- Reply flat: 1 where there is more to take, else 0; then lane (0..2), entry id, attempt, points of suspicion, weight as in
--       weight.lua, slow decodes, …; the caller reads the entries itself
--
-- Where nobody was heard of for half a lease, or the clock went back, leases that ran out say nothing about the workers:
-- nobody is declared dead then, nor in the grace that the next renew gives them. Whoever has no lease at all was declared dead
-- before, or lost it with the server's memory: it can commit nothing, so its jobs are free at any time.

local leases, cfg = KEYS[1], KEYS[2]
local group, me, lease_ms, room, left = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local returned, most = ARGV[6], { tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]) }
local now = now_ms()

local AT_ONCE = 1000
local facts = redis.pcall('HMGET', cfg, 'heard_ms', 'grace_ms')
local heard, grace = count(facts[1]) or 0, count(facts[2]) or 0
if not (now < heard or now - heard > lease_ms / 2 or (now < grace and grace - now <= lease_ms)) then
  for _, incarnation in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. now, 'LIMIT', 0, AT_ONCE)) do
    redis.call('ZREM', leases, incarnation)
  end
end

local function known(field)
  local text = redis.pcall('HGET', KEYS[6], field)
  return type(text) == 'string' and count(text) or 0
end

local taken = { 0 }
local function take(lane, stream, entry, attempt, ...)
  local weight = weigh(stream, entry, most)
  if not weight then
    redis.call('XACK', stream, group, entry)
    return
  elseif #taken > 1 and math.abs(weight) > left then
    taken[1], left = 1, 0
    return
  end
  redis.call('XCLAIM', stream, group, me, 0, entry, 'RETRYCOUNT', attempt, 'JUSTID', ...)
  local job = (lane - 1) .. ':' .. entry
  for _, fact in ipairs({ lane - 1, entry, attempt, known(job), weight, known('slow:' .. job) }) do
    taken[#taken + 1] = fact
  end
  room, left = room - 1, left - math.abs(weight)
end

local function take_from_the_dead(lane, stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local name, pending = consumer[2], consumer[4] -- name, N, pending, N, …
    if not redis.call('ZSCORE', leases, name) and (name ~= returned or ARGV[10] == '1') then
      if pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
      elseif room > 0 and left > 0 then
        for _, row in ipairs(redis.call('XPENDING', stream, group, '-', '+', room, name)) do
          if left <= 0 then
            break
          end
          take(lane, stream, row[1], name == returned and row[4] or row[4] + 1)
          pending = pending - 1 -- or taken[1] says already that there is more
        end
      end
      if pending > 0 then
        taken[1] = 1
      end
    end
  end
end

-- Every entry is undelivered (the lag), pending, or stranded: what is answered is deleted. Stranded ones are looked for only
-- where the counts say that there are some, among the oldest entries.
local LOOK_AT, AT_ONCE = 500, 10

local function count_stranded(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, facts in ipairs(groups.err and {} or groups) do
    local known = {}
    for i = 1, #facts, 2 do
      known[facts[i]] = facts[i + 1]
    end
    if known['name'] == group and known['lag'] then
      return redis.call('XLEN', stream) - known['pending'] - known['lag'], known['last-delivered-id']
    end
  end
  return 0
end

local function take_the_stranded(lane, stream)
  local stranded, last = count_stranded(stream)
  if stranded <= 0 or room <= 0 or left <= 0 then
    return
  end
  local from = '-'
  for _ = 1, LOOK_AT / AT_ONCE do
    for _, row in ipairs(redis.call('XRANGE', stream, from, last, 'COUNT', AT_ONCE)) do
      if room <= 0 or left <= 0 or stranded <= 0 then
        return
      end
      from = '(' .. row[1]
      if #redis.call('XPENDING', stream, group, row[1], row[1], 1) == 0 then
        take(lane, stream, row[1], 2, 'FORCE')
        stranded = stranded - 1
      end
    end
  end
end

for lane = 1, 3 do
  take_from_the_dead(lane, KEYS[2 + lane])
  take_the_stranded(lane, KEYS[2 + lane])
end
return taken
