-- whereabouts: where a job is, without moving its image; what status.lua and functions.lua share, and put before themselves.
--
-- convq:{M}:result:<id>       EXISTS
-- convq:{M}:job:<id>          GET
-- convq:{M}:jobs[:high|:low]  XPENDING of one entry; XRANGE only where it is not pending (the entry then is waiting)

local function whereabouts(result, known_key, streams, group, id)
  if redis.call('EXISTS', result) == 1 then
    return 'done'
  end
  local entry, known = id, redis.pcall('GET', known_key)
  if type(known) == 'string' then
    entry = string.match(known, ' (%S+)$') or id
  end
  if not string.match(entry, '^%d+%-%d+$') then
    return 'unknown'
  end
  for lane = 1, 3 do
    local pending = redis.pcall('XPENDING', streams[lane], group, entry, entry, 1)
    if not pending.err and #pending > 0 then
      return 'running'
    end
    local found = redis.pcall('XRANGE', streams[lane], entry, entry, 'COUNT', 1)
    if not found.err and #found > 0 then
      return 'waiting'
    end
  end
  return 'unknown'
end
