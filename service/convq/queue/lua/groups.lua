#!lua flags=allow-oom
-- groups: make the consumer group of every stream, from the first entry on, where it is missing.
--
-- convq:{M}:jobs[:high|:low]  XGROUP CREATE
--
-- KEYS  high, jobs, low
-- ARGV  group
-- Reply the numbers (1..3) of the streams that are something else: nothing can be made there
--
-- allow-oom: a worker that starts at maxmemory is the one that would free some.

local strange = {}
for lane, stream in ipairs(KEYS) do
  local made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[1], '0', 'MKSTREAM')
  if made.err and string.find(made.err, 'WRONGTYPE', 1, true) then
    strange[#strange + 1] = lane
  elseif made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
    return made
  end
end
return strange
