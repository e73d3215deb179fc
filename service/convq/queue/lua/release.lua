#!lua flags=allow-oom
-- release: end a worker's lease; from here on every commit of it is refused, and reclaim finds what it held.
--
-- convq:{M}:leases            ZREM
-- convq:{M}:jobs[:high|:low]  the worker's consumer is deleted where it holds nothing
-- convq:{M}:suspects          HINCRBY, PEXPIRE: jobs that native code was working on when the worker died
--
-- KEYS  leases, high, jobs, low, suspects
-- ARGV  group, incarnation, ms that suspicions live, points, then suspects as lane:entry (lane 0..2)
-- Reply how many jobs the worker still held

redis.call('ZREM', KEYS[1], ARGV[2])
local held = 0
for lane = 2, 4 do
  local pending = redis.pcall('XPENDING', KEYS[lane], ARGV[1], '-', '+', 1000, ARGV[2])
  if not pending.err then
    held = held + #pending
    if #pending == 0 then
      -- DELCONSUMER drops what a consumer has pending: only ever where that is nothing, in the same step.
      redis.pcall('XGROUP', 'DELCONSUMER', KEYS[lane], ARGV[1], ARGV[2])
    end
  end
end
for i = 5, #ARGV do
  if type(redis.pcall('HINCRBY', KEYS[5], ARGV[i], ARGV[4])) == 'table' then
    redis.pcall('HSET', KEYS[5], ARGV[i], ARGV[4]) -- what stood there was no count
  end
end
if #ARGV >= 5 then
  redis.pcall('PEXPIRE', KEYS[5], ARGV[3])
end
return held
