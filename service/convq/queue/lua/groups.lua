#!lua flags=allow-oom
-- groups: make the consumer group of every stream, from the first entry on, where it is missing.
--
-- convq:{M}:jobs[:high|:low]  XGROUP CREATE
--
-- KEYS  high, jobs, low
-- ARGV  group
-- Reply 1, or the error of the first stream that is something else
--
-- allow-oom: a worker that starts at maxmemory is the one that would free some.

for _, stream in ipairs(KEYS) do
  local made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[1], '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
    return made
  end
end
return 1
