-- functions: what clients call with FCALL; a library for FUNCTION LOAD, behind door.lua, whereabouts.lua and functions.py's lines.
--
-- convq:{M}:cfg, convq:{M}:door, convq:{M}:jobs[:high|:low], convq:{M}:job:<id>: see door.lua
-- convq:{M}:result:<id>: see whereabouts.lua
--
-- KEYS  a job stream of the shard; its other keys are made from that name, and lie in the same slot
--
-- convq_submit: what XADD does, at the door: one job per id, and a full queue refuses. The stream is that of the wanted priority.
-- ARGV  field, value, … exactly as XADD takes them behind the key and the entry id
-- Reply the entry id; or an error that begins with QUEUEFULL (see submit.lua) or ERR, and nothing was added
--
-- convq_submit_jobs: many jobs at once, for libraries. ARGV as those of submit.lua from the first job on; the same reply.
--
-- convq_refusal: what convq_submit_jobs would refuse these jobs with. It writes nothing, so that it can be asked at maxmemory too.
--
-- convq_status: ARGV the job's id. Reply as status.lua.

local LANES = { [':high'] = 1, [''] = 2, [':low'] = 3 }

local function refused(name, text)
  return redis.error_reply('ERR ' .. name .. ': ' .. text)
end

-- The prefix of the shard's keys, its streams, and the lane of the stream that is named; nothing where that is none.
local function shard_of(keys)
  local prefix, suffix = string.match(keys[1] or '', '^(convq:{[a-z0-9][a-z0-9_-]*%.?%d*}:)jobs(:?%l*)$')
  if #keys == 1 and LANES[suffix] then
    return prefix, { prefix .. 'jobs:high', prefix .. 'jobs', prefix .. 'jobs:low' }, LANES[suffix]
  end
end

local WHICH = "the one key is a job stream, like 'convq:{lenet}:jobs', with :high or :low at its end for another priority"

local function let_into(prefix, streams, args, jobs)
  return let_in(prefix .. 'cfg', streams, DEDUP_WINDOW_MS, prefix .. 'job:', args, jobs)
end

local function is_id(id)
  return #id <= 64 and string.find(id, '^[%w._:-]+$')
end

local function convq_submit(keys, args)
  local prefix, streams, lane = shard_of(keys)
  if not prefix then
    return refused('convq_submit', WHICH)
  end
  if #args == 0 or #args % 2 == 1 then
    return refused('convq_submit', 'the arguments are field and value in turn, without the * of XADD; there are ' .. #args)
  end
  if #args > MOST_PARTS then
    return refused('convq_submit', string.format('a job has %d fields; %d may be', #args / 2, MOST_PARTS / 2))
  end
  local id, bytes, seen = '', 0, {}
  for i = 1, #args, 2 do
    if FIELDS[args[i]] and seen[args[i]] then
      return refused('convq_submit', args[i] .. ' must be given once')
    end
    seen[args[i]] = true
    if args[i] == 'id' then
      id = args[i + 1]
      if not is_id(id) then
        return refused('convq_submit', 'id must be 1 to 64 characters of A-Z a-z 0-9 . _ : -')
      end
    elseif args[i] == 'image' or args[i] == 'tensor' then
      bytes = bytes + #args[i + 1]
    end
  end
  local entries = let_into(prefix, streams, args, { { lane = lane, id = id, bytes = bytes, from = 1, to = #args } })
  return entries.err and entries or entries[1]
end

local function convq_submit_jobs(keys, args)
  local prefix, streams = shard_of(keys)
  if not prefix then
    return refused('convq_submit_jobs', WHICH)
  end
  local jobs = jobs_in(args, 1)
  if not jobs then
    return refused('convq_submit_jobs', 'for each job: lane (1 to 3), id or "", bytes, how many parts follow, field, value, …')
  end
  for _, job in ipairs(jobs) do
    if job.id ~= '' and not is_id(job.id) then
      return refused('convq_submit_jobs', 'id must be 1 to 64 characters of A-Z a-z 0-9 . _ : -')
    end
  end
  return let_into(prefix, streams, args, jobs)
end

local function convq_status(keys, args)
  local prefix, streams = shard_of(keys)
  if not prefix or #args ~= 1 then
    return refused('convq_status', WHICH .. '; the one argument is the id of a job')
  end
  return whereabouts(prefix .. 'result:' .. args[1], prefix .. 'job:' .. args[1], streams, GROUP, args[1])
end

redis.register_function('convq_submit', convq_submit)
redis.register_function('convq_submit_jobs', convq_submit_jobs)
redis.register_function{ function_name = 'convq_refusal', callback = convq_submit_jobs, flags = { 'no-writes' } }
redis.register_function{ function_name = 'convq_status', callback = convq_status, flags = { 'no-writes' } }
