-- door: what submit.lua and functions.lua share, and put before themselves: let jobs into their streams, or refuse them all.
--
-- convq:{M}:cfg               HMGET max_jobs, max_bytes, drain_*: the service's own, which producers can only read
-- convq:{M}:door              HMGET bytes; HINCRBY bytes, refused_jobs, refused_bytes
-- convq:{M}:jobs[:high|:low]  XLEN, XADD
-- convq:{M}:job:<id>          GET, SET: one job per id within the dedup window
--
-- `bytes` is what the service last measured plus what was submitted since; limits and drain_* are written by measure.lua. What
-- is no count, or lies in a key of another type, counts as not known: no limit, nothing held. The name of door is made from that
-- of cfg: a user whose rights are of before there was one submits as ever, and nothing is counted.
--
-- Entry ids are job ids, and three streams that each count from 0 in a millisecond would give three jobs one id. So each
-- lane counts from another number here: 0 in the normal one, as a plain XADD does, 10^9 and 2 * 10^9 in the others.

local MOST_PARTS = 2000 -- fields and values of one job: what unpack can take at once ends at about 8,000
local MEASURED_WITHIN_MS = 10000 -- an older drain rate says nothing: no service measures it any more
local SOONEST_MS, LATEST_MS = 10, 3600000
local MOST_DIGITS = 15 -- of a number that Lua can count on from

-- What others may have written: nil for all that is no count.
local function count_in(text)
  local value = tonumber(text)
  return value and value >= 0 and value <= 2 ^ 53 and value or nil
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Jobs answered a second; 0 where it was never measured while jobs waited (then it only says what came in), or not lately.
local function drain_rate(cfg)
  local facts = redis.pcall('HMGET', cfg, 'drain_per_s', 'drain_ms', 'drain_full')
  local rate, measured_ms = count_in(facts[1]), count_in(facts[2])
  local known = rate and measured_ms and facts[3] == '1' and math.abs(now_ms() - measured_ms) <= MEASURED_WITHIN_MS
  return known and rate or 0
end

-- Refuse `count` jobs because of the limit `reason`, jobs or bytes: count them, and make the error of a full queue. `excess` is
-- how many jobs must be answered until there is room; nil where that never helps. At maxmemory, or without the right, the
-- server refuses to count (these scripts may not write then): the answer is the same, and these jobs stay uncounted.
local function queue_full(cfg, door, reason, count, what, excess)
  redis.pcall('HINCRBY', door, 'refused_' .. reason, count)
  local rate = excess and drain_rate(cfg) or 0
  local wait_ms = rate > 0 and math.max(SOONEST_MS, math.ceil(1000 * excess / rate))
  if wait_ms and wait_ms <= LATEST_MS then
    what = what .. string.format('; retry_after_ms=%d', wait_ms)
  end
  return redis.error_reply('QUEUEFULL ' .. what)
end

local function add_to(streams, args)
  local now = string.format('%d', now_ms())
  local next_ms, next_seq = { now, nil, now }, { 1e9, nil, 2e9 }
  local function numbered(lane, job)
    local entry = next_ms[lane] and string.format('%s-%.0f', next_ms[lane], next_seq[lane]) or '*'
    return redis.pcall('XADD', streams[lane], entry, unpack(args, job.from, job.to))
  end
  return function(job)
    local lane = job.lane
    if not next_ms[lane] then
      return numbered(lane, job)
    end
    local entry = numbered(lane, job)
    if type(entry) == 'table' and string.find(entry.err, 'equal or smaller', 1, true) then
      -- Not the first of this millisecond, or the clock went back: go on behind the last entry, in this lane's numbers.
      local last = redis.call('XINFO', 'STREAM', streams[lane])
      for i = 1, #last, 2 do
        if last[i] == 'last-generated-id' then
          local ms, seq = string.match(last[i + 1], '^(%d+)%-(%d+)$')
          if #seq <= MOST_DIGITS then
            next_ms[lane], next_seq[lane] = ms, math.max(next_seq[lane], tonumber(seq) + 1)
          else -- not from here, and too long a number for Lua: the server counts on by itself
            next_ms[lane] = nil
          end
        end
      end
      entry = numbered(lane, job)
    end
    next_seq[lane] = next_seq[lane] + 1
    return entry
  end
end

-- The entry id of the job that was let in under this id; nothing where there is none, or something else stands there.
local function known_as(key)
  local known = redis.pcall('GET', key)
  return type(known) == 'string' and string.match(known, ' (%d+%-%d+)$')
end

-- Let jobs in. `streams` are high, jobs, low; a job is {lane 1..3, id or '', bytes of the payload, from, to}, its fields being
-- args[from] to args[to]. Returns one entry id per job, or an error, and then nothing was added.
local function let_in(cfg, streams, window_ms, prefix, args, jobs)
  local door = string.gsub(cfg, 'cfg$', 'door')
  local facts, held = redis.pcall('HMGET', cfg, 'max_jobs', 'max_bytes'), redis.pcall('HMGET', door, 'bytes')
  local max_jobs, max_bytes, bytes = count_in(facts[1]), count_in(facts[2]), count_in(held[1]) or 0

  local there, count, size, lengths = 0, 0, 0, {}
  for lane = 1, 3 do
    lengths[lane] = redis.pcall('XLEN', streams[lane])
    there = there + (type(lengths[lane]) == 'number' and lengths[lane] or 0)
  end
  for _, job in ipairs(jobs) do
    if job.to - job.from >= MOST_PARTS then
      return redis.error_reply(string.format('ERR a job has %d fields; %d may be', (job.to - job.from + 1) / 2, MOST_PARTS / 2))
    end
    if job.id == '' or not known_as(prefix .. job.id) then
      if type(lengths[job.lane]) == 'table' then
        return lengths[job.lane] -- no stream: said before anything is added
      end
      count, size = count + 1, size + job.bytes
    end
  end

  if max_jobs and count > max_jobs then
    local what = count .. ' jobs came at once, ' .. max_jobs .. ' may be in it: submit fewer at a time'
    return queue_full(cfg, door, 'jobs', count, what .. '; most_jobs=' .. max_jobs)
  elseif max_jobs and count > 0 and there + count > max_jobs then
    local what = there .. ' jobs are in the queue, ' .. max_jobs .. ' may be'
    return queue_full(cfg, door, 'jobs', count, what, there + count - max_jobs)
  end
  if max_bytes and count > 0 and there > 0 and bytes + size > max_bytes then
    local excess = math.min(there, (bytes + size - max_bytes) * there / math.max(bytes, 1))
    return queue_full(cfg, door, 'bytes', count, bytes .. ' bytes are in the queue, ' .. max_bytes .. ' may be', excess)
  end

  local add, entries, added = add_to(streams, args), {}, 0
  for n, job in ipairs(jobs) do
    local known = job.id ~= '' and known_as(prefix .. job.id)
    if known then
      entries[n] = known
    else
      local entry = add(job)
      if type(entry) == 'table' then
        return entry
      end
      if job.id ~= '' then
        redis.call('SET', prefix .. job.id, streams[job.lane] .. ' ' .. entry, 'PX', window_ms)
      end
      entries[n] = entry
      added = added + job.bytes
    end
  end
  if added > 0 then
    redis.pcall('HINCRBY', door, 'bytes', added)
  end
  return entries
end

-- The jobs in `args` from the i-th on, each as lane (1..3), id or "", bytes of the payload, how many of the following are its
-- fields, field, value, …; nil where that is not what stands there.
local function jobs_in(args, i)
  local jobs = {}
  while i <= #args do
    local lane, bytes, length = count_in(args[i]), count_in(args[i + 2]), count_in(args[i + 3])
    if not (lane and bytes and length and lane >= 1 and lane <= 3 and length >= 1 and i + 3 + length <= #args) then
      return nil
    end
    jobs[#jobs + 1] = { lane = lane, id = args[i + 1], bytes = bytes, from = i + 4, to = i + 3 + length }
    i = i + 4 + length
  end
  return jobs
end
