#!lua flags=allow-oom
-- give_back: hand over jobs that the caller holds and will not run now, so that any worker takes them at its next reclaim.
--
-- convq:{M}:leases            read: a worker whose lease is gone holds nothing
-- convq:{M}:jobs[:high|:low]  XPENDING, XCLAIM to a consumer that never has a lease
--
-- KEYS  leases, high, jobs, low
-- ARGV  group, incarnation of the caller, the consumer for what is given back, then lane (1..3), entry id, …
-- Reply "FENCED", or how many were given back: what is not pending under the caller is another's
--
-- The number of deliveries stays as it is, here and in reclaim.lua: nothing has happened to these jobs.

if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 'FENCED'
end
local given = 0
for i = 4, #ARGV, 2 do
  local stream, entry = KEYS[1 + ARGV[i]], ARGV[i + 1]
  local pending = redis.pcall('XPENDING', stream, ARGV[1], entry, entry, 1, ARGV[2])
  if not pending.err and #pending > 0 then
    redis.call('XCLAIM', stream, ARGV[1], ARGV[3], 0, entry, 'RETRYCOUNT', pending[1][4], 'JUSTID')
    given = given + 1
  end
end
return given
