-- door: what submit.lua and functions.lua share, and put before themselves: let jobs into their streams, or refuse them all.
-- Stands behind numbers.lua, drain.lua, known.lua, whereabouts.lua and names.lua.
--
-- convq:{M}:cfg               HMGET max_jobs, max_bytes: the service's own, which producers can only read
-- convq:{M}:door              HMGET bytes; HINCRBY bytes, refused_jobs, refused_bytes
-- convq:{M}:jobs[:high|:low]  XLEN, XADD
-- convq:{M}:job:<id>          GET, SET: one job per id within the dedup window
-- convq:{M}:result:<id>, convq:{M}:inbox:<client>, convq:{M}:leases, XPENDING and XRANGE of the streams: what became of a job whose id
--                             is remembered, see whereabouts.lua; EXISTS, LRANGE
-- convq:known                 SMEMBERS, only for a model that no service has said anything of
--
-- `bytes` is what the service last measured plus what was submitted since; limits and drain_* are written by measure.lua. What
-- is no count, or lies in a key of another type, counts as not known: no limit, nothing held. The name of door is made from that
-- of cfg: a user whose rights are of before there was one submits as ever, and nothing is counted.
--
-- Entry ids are job ids, and three streams that each count from 0 in a millisecond would give three jobs one id. So each
-- lane counts from another number here: 0 in the normal one, as a plain XADD does, 10^9 and 2 * 10^9 in the others.

local MOST_PARTS = 2000 -- fields and values of one job: what unpack can take at once ends at about 8,000
local SOONEST_MS, LATEST_MS = 10, 3600000
local MOST_DIGITS = 15 -- of a number that Lua can count on from
local WINDOW_S = 600 -- ids are remembered: DEDUP_WINDOW_S of protocol.py
local HELD_MS = 1000 -- until a worker that is silent is asked after again

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

-- Whether the answer of that entry is among the newest of its inbox. Where the caller may not look, it is taken to be.
local INBOX_LOOKS, INBOX_BYTES, HEAD_BYTES = 100, 1048576, 300
local function is_in_inbox(inbox, entry)
  local bytes, named = 0, '"entry":"' .. entry .. '"'
  for i = 1, INBOX_LOOKS do
    local found = redis.pcall('LRANGE', inbox, -i, -i)
    if forbidden(found) then
      return true
    elseif found.err or #found == 0 then
      return false
    elseif string.find(string.sub(found[1], 1, HEAD_BYTES), named, 1, true) then
      return true
    end
    bytes = bytes + #found[1]
    if bytes > INBOX_BYTES then
      return false
    end
  end
  return false
end

local function answered(base, id, known)
  if known.where == '-' then
    if redis.call('EXISTS', base .. 'result:' .. id) == 1 then
      return known.entry
    end
  elseif is_in_inbox(known.where, known.entry) then
    return known.entry
  end
  local where = known.where == '-' and 'and its answer was read' or 'and its answer went to ' .. known.where
  local what = string.format('ANSWERED the id %s was answered already within the last %d s, ', id, WINDOW_S)
  local ago_ms = math.max(0, now_ms() - known.answered_ms)
  return nil, redis.error_reply(what .. where .. string.format('; answered_ms_ago=%.0f', ago_ms))
end

-- What became of the job that was let in under this id: its entry where its answer is there or will come; an error besides where it
-- was read, or where nobody can say; nothing where there is none, or nothing is left of it: then it is a new job.
local function known_as(base, streams, id)
  local known = remembered(redis.pcall('GET', base .. 'job:' .. id))
  if not known then
    return nil
  elseif known.where then
    return answered(base, id, known)
  end
  local lane
  for n = 1, 3 do
    lane = streams[n] == known.stream and n or lane
  end
  local found = lane and place(streams[lane], known.entry)
  if found == 'held' then
    local what = 'HELD the entry of the job ' .. id .. ' was deleted, and a worker that is silent held it: nobody knows yet'
    return nil, redis.error_reply(what .. ' whether it will be answered; retry_after_ms=' .. HELD_MS)
  elseif found or redis.call('EXISTS', base .. 'result:' .. id) == 1 then
    return known.entry
  end
end

-- The error for a model that nobody serves, has served, or expects; nil where it is known, or where there is no name to compare with.
-- Workers make the group, which a plain XADD does not. In a Cluster the list of names lies elsewhere: then all are known.
local function unknown_model(base, streams)
  for lane = 1, 3 do
    local group = redis.pcall('XPENDING', streams[lane], WORKERS)
    if not group.err or forbidden(group) then
      return nil
    end
  end
  local names, model = redis.pcall('SMEMBERS', 'convq:known'), string.match(base, '^convq:{([^.}]+)')
  if names.err or #names == 0 then
    return nil
  end
  for _, name in ipairs(names) do
    if name == model or name == '*' then
      return nil
    end
  end
  local what, near = 'UNKNOWNMODEL no service serves ' .. model .. ', has served it or expects it', nearest(model, names)
  return redis.error_reply(what .. (near and '; did you mean ' .. near .. '?; nearest=' .. near or ''))
end

-- Let jobs in. `streams` are high, jobs, low; a job is {lane 1..3, id or '', bytes of the payload, from, to}, its fields being
-- args[from] to args[to]. Returns one entry id per job, or an error, and then nothing was added.
local function let_in(cfg, streams, window_ms, args, jobs)
  local base, door = string.gsub(cfg, 'cfg$', ''), string.gsub(cfg, 'cfg$', 'door')
  local facts, held = redis.pcall('HMGET', cfg, 'max_jobs', 'max_bytes'), redis.pcall('HMGET', door, 'bytes')
  local max_jobs, max_bytes, bytes = count(facts[1]), count(facts[2]), count(held[1]) or 0
  local unknown = not max_jobs and unknown_model(base, streams)
  if unknown then
    return unknown
  end

  local there, count, size, lengths = 0, 0, 0, {}
  for lane = 1, 3 do
    lengths[lane] = redis.pcall('XLEN', streams[lane])
    there = there + (type(lengths[lane]) == 'number' and lengths[lane] or 0)
  end
  local entries, named = {}, {}
  for n, job in ipairs(jobs) do
    if job.to - job.from >= MOST_PARTS then
      return redis.error_reply(string.format('ERR a job has %d fields; %d may be', (job.to - job.from + 1) / 2, MOST_PARTS / 2))
    end
    local refusal
    if job.id ~= '' and not named[job.id] then
      entries[n], refusal = known_as(base, streams, job.id)
      if refusal then
        return refusal
      end
    end
    if not entries[n] and not named[job.id] then
      if type(lengths[job.lane]) == 'table' then
        return lengths[job.lane] -- no stream: said before anything is added
      end
      count, size = count + 1, size + job.bytes
    end
    if job.id ~= '' then
      named[job.id] = true
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

  local add, added, first = add_to(streams, args), 0, {}
  for n, job in ipairs(jobs) do
    entries[n] = entries[n] or first[job.id]
    if not entries[n] then
      local entry = add(job)
      if type(entry) == 'table' then
        return entry
      end
      if job.id ~= '' then
        redis.call('SET', base .. 'job:' .. job.id, streams[job.lane] .. ' ' .. entry, 'PX', window_ms)
      end
      entries[n] = entry
      added = added + job.bytes
    end
    if job.id ~= '' then
      first[job.id] = entries[n]
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
    local lane, bytes, length = count(args[i]), count(args[i + 2]), count(args[i + 3])
    if not (lane and bytes and length and lane >= 1 and lane <= 3 and length >= 1 and i + 3 + length <= #args) then
      return nil
    end
    jobs[#jobs + 1] = { lane = lane, id = args[i + 1], bytes = bytes, from = i + 4, to = i + 3 + length }
    i = i + 4 + length
  end
  return jobs
end
