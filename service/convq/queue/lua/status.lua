#!lua flags=no-writes
-- status: where a job is, without moving its image.
--
-- convq:{M}:result:<id>       EXISTS
-- convq:{M}:job:<id>          GET
-- convq:{M}:jobs[:high|:low]  XPENDING of one entry; XRANGE only where it is not pending (the entry then is waiting)
--
-- KEYS  result key, job key, high, jobs, low
-- ARGV  group, job id
-- Reply "done", "running", "waiting" or "unknown"

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'done'
end
local entry = ARGV[2]
local known = redis.call('GET', KEYS[2])
if known then
  entry = string.match(known, ' (%S+)$')
end
if not string.match(entry, '^%d+%-%d+$') then
  return 'unknown'
end
for lane = 3, 5 do
  local pending = redis.pcall('XPENDING', KEYS[lane], ARGV[1], entry, entry, 1)
  if not pending.err and #pending > 0 then
    return 'running'
  end
  local found = redis.pcall('XRANGE', KEYS[lane], entry, entry, 'COUNT', 1)
  if not found.err and #found > 0 then
    return 'waiting'
  end
end
return 'unknown'
