#!lua flags=allow-oom
-- release: end a worker's lease; from here on every commit of it is refused, and reclaim finds what it held.
--
-- convq:{M}:leases            ZREM
-- convq:{M}:jobs[:high|:low]  the worker's consumer is deleted where it holds nothing
-- convq:{M}:suspects          HGET, HINCRBY, HSET, HDEL, PEXPIRE: jobs that native code was working on when the worker died
--
-- KEYS  leases, high, jobs, low, suspects
-- ARGV  group, incarnation, ms that suspicions live, then accusations: blame, points, the job as lane:entry (lane 0..2)
-- Reply how many jobs the worker still held
--
-- What a job is accused of:
--   company  its points, but never above COMPANY_POINTS in all: who did not die alone cannot be condemned
--   alone    its points instead of those that alone.lua wrote down when it began; none takes those back
--   slow     once more over the time that decoding may take, in a field of its own

local COMPANY_POINTS = 3 -- as crash_marks.py says
local BEGUN_POINTS = 2 -- as alone.lua writes down

local function add(field, points)
  local sum = redis.pcall('HINCRBY', KEYS[5], field, points)
  if type(sum) == 'table' then -- what stood there was no count
    redis.pcall('HSET', KEYS[5], field, math.max(points, 0))
  elseif sum <= 0 then
    redis.call('HDEL', KEYS[5], field)
  end
end

local function accuse(blame, points, job)
  if blame == 'slow' then
    add('slow:' .. job, 1)
  elseif blame == 'alone' then
    add(job, points - BEGUN_POINTS)
  else
    local known = redis.pcall('HGET', KEYS[5], job) -- false, text, or an error where a stranger has put something else there
    local more = math.min(points, COMPANY_POINTS - (type(known) == 'string' and tonumber(known) or 0))
    if more > 0 then
      add(job, more)
    end
  end
end

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
for i = 4, #ARGV, 3 do
  accuse(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2])
end
if #ARGV >= 4 then
  redis.pcall('PEXPIRE', KEYS[5], ARGV[3])
end
return held
