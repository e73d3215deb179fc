#!lua flags=allow-oom
-- alone: write down that a suspect is about to run alone, before it does: whoever dies of it, this is known.
--
-- convq:{M}:leases            read: a worker whose lease is gone runs nothing
-- convq:{M}:jobs[:high|:low]  XPENDING
-- convq:{M}:suspects          HINCRBY, PEXPIRE
--
-- KEYS  leases, stream of the job, suspects
-- ARGV  group, incarnation, the job as lane:entry (lane 0..2), entry id, ms that suspicions live, 0 where the caller has asked
--       before and heard no answer: it is not written down twice then
-- Reply "FENCED", 1 written down, 0 the job is not this worker's any more
--
-- It counts BEGUN_POINTS, in advance. An answer deletes them (complete.lua, bury.lua); a supervisor that lives to see the end
-- puts what it saw in their place (release.lua), and so does a worker that lost its lease and lives; where all died, they stand.

local BEGUN_POINTS = 2

if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 'FENCED'
end
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[1], ARGV[4], ARGV[4], 1, ARGV[2])
if pending.err or #pending == 0 then
  return 0
end
if ARGV[6] ~= '0' then
  redis.pcall('HINCRBY', KEYS[3], ARGV[3], BEGUN_POINTS) -- without a record where a stranger has put something else there
end
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return 1
