-- whereabouts: where a job is, without moving its image over the wire; what the door and status share. Stands behind known.lua.
--
-- convq:{M}:result:<id>       EXISTS
-- convq:{M}:job:<id>          GET
-- convq:{M}:leases            ZSCORE: whether who holds it lives; the name is made from that of a stream
-- convq:{M}:jobs[:high|:low]  XPENDING of one entry; XRANGE only where no living worker holds it

local WORKERS = 'workers' -- the group, as keys.py says

-- Whether a reply is a refusal for lack of a right: users made for an older convq may not look everywhere.
local function forbidden(reply)
  return type(reply) == 'table' and reply.err
    and (string.find(reply.err, 'NOPERM', 1, true) or string.find(reply.err, 'executing the script', 1, true)
      or string.find(reply.err, 'ACL failure', 1, true)) and true
end

-- Where an entry is: "running", "waiting", nil where nothing is left of it; "held" where it was deleted and its worker is
-- silent, but not declared dead: nobody can say whether it will be answered. "untold" where the caller may not know.
local function place(stream, entry)
  local pending = redis.pcall('XPENDING', stream, WORKERS, entry, entry, 1)
  if forbidden(pending) then
    return 'untold'
  end
  local holder = not pending.err and pending[1] and pending[1][2]
  local lease = holder and redis.pcall('ZSCORE', (string.gsub(stream, 'jobs:?%l*$', 'leases')), holder)
  if forbidden(lease) then
    return 'running'
  end
  if type(lease) == 'string' then
    local time = redis.call('TIME')
    if tonumber(lease) >= time[1] * 1000 + math.floor(time[2] / 1000) then
      return 'running'
    end
  end
  local found = redis.pcall('XRANGE', stream, entry, entry)
  if forbidden(found) then
    return 'untold'
  elseif not found.err and #found > 0 then
    return holder and 'running' or 'waiting'
  end
  return type(lease) == 'string' and 'held' or nil
end

local function whereabouts(result, known_key, streams, id)
  if redis.call('EXISTS', result) == 1 then
    return 'done'
  end
  local known = remembered(redis.pcall('GET', known_key))
  local entry = known and known.entry or id
  if not string.match(entry, '^%d+%-%d+$') then
    return 'unknown'
  end
  for lane = 1, 3 do
    local found = place(streams[lane], entry)
    if found == 'running' or found == 'waiting' then
      return found
    elseif found == 'held' then
      return 'running'
    end
  end
  return 'unknown'
end
