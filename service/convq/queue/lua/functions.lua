-- functions: what clients call with FCALL; a library for FUNCTION LOAD, behind known.lua, whereabouts.lua, names.lua, door.lua and
-- functions.py's lines.
--
-- convq:{M}:cfg, convq:{M}:door, convq:{M}:jobs[:high|:low], convq:{M}:job:<id> and others: see door.lua and whereabouts.lua
--
-- KEYS  a job stream of the shard; its other keys are made from that name, and lie in the same slot. They may be named behind it
--
-- convq_submit: what XADD does, at the door: one job per id, and a full queue refuses. The stream is that of the wanted priority.
-- ARGV  field, value, … exactly as XADD takes them behind the key and the entry id
-- Reply the entry id; or an error that begins with QUEUEFULL, ANSWERED, HELD or UNKNOWNMODEL (see door.lua), or with ERR where the
--       call is wrong, and nothing was added
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
  if not LANES[suffix] then
    return nil
  end
  for n = 2, #keys do -- of the same shard: a Cluster may want them all named
    if string.sub(keys[n], 1, #prefix) ~= prefix then
      return nil
    end
  end
  return prefix, { prefix .. 'jobs:high', prefix .. 'jobs', prefix .. 'jobs:low' }, LANES[suffix]
end

local function which(keys)
  local expected = "the one key is a job stream, like 'convq:{lenet}:jobs', with :high or :low at its end for another priority"
  return #keys == 1 and expected or expected .. string.format('; the number before the keys says that there are %d', #keys)
end

local function let_into(prefix, streams, args, jobs)
  return let_in(prefix .. 'cfg', streams, DEDUP_WINDOW_MS, args, jobs)
end

local function is_id(id)
  return #id <= 64 and string.find(id, '^[%w._:-]+$')
end

local function bare(name)
  return string.lower((string.gsub(name, '[^%w]', '')))
end

-- The field of the protocol that is nearly called so; nil where the name is nobody's but the caller's. Nobody mistypes the first
-- letter alone, and `sensor` is no tensor; two letters may be wrong in a long name only, and none in one of two.
local LONG, SHORT, LONGEST_FIELD = 9, 4, 32
local UNSEEN = { '\239\187\191', '\194\160', '\226\128[\139-\143]' } -- byte order mark, hard space, joiners: no eye finds them
local function meant(name)
  for _, unseen in ipairs(UNSEEN) do
    name = string.gsub(name, unseen, '')
  end
  if #name > LONGEST_FIELD or string.find(name, '[^%c\32-\126]') then
    return nil
  end
  local word = bare(name)
  if OTHERS[word] then
    return nil
  end
  if WRITTEN[word] then -- functions.py says how else people write the names
    return WRITTEN[word]
  end
  local a, b = string.sub(word, 1, 1), string.sub(word, 2, 2)
  for right in pairs(FIELDS) do
    local known = bare(right)
    local first, second = string.sub(known, 1, 1), string.sub(known, 2, 2)
    if #known >= SHORT and (a == first or (a == second and b == first)) then
      local most = #known >= LONG and 2 or 1
      if distance(word, known, most) <= most then
        return right
      end
    end
  end
end

-- What is wrong with a field that the protocol does not know; nil where it may be there, for whoever knows it.
local OF_XADD = { MAXLEN = true, MINID = true, NOMKSTREAM = true, LIMIT = true, KEEPREF = true, DELREF = true, ACKED = true }
local function misnamed(name, is_first)
  if is_first and (name == '*' or string.find(name, '^%d+%-[%d*]+$')) then
    return 'the arguments are field and value in turn, without the * of XADD'
  elseif is_first and OF_XADD[string.upper(name)] then
    return 'it takes no options of XADD, like ' .. string.upper(name) .. ': a stream of jobs is never trimmed'
  end
  if bare(name) == 'priority' then
    return 'there is no field ' .. name .. ": the stream chooses the priority; it is the key, with :high or :low at its end"
  end
  local right = meant(name)
  return right and 'there is no field ' .. string.gsub(name, '[^\32-\126]', '?') .. '; did you mean ' .. right .. '?'
end

local function convq_submit(keys, args)
  local prefix, streams, lane = shard_of(keys)
  if not prefix then
    return refused('convq_submit', which(keys))
  end
  if #args == 0 or #args % 2 == 1 then
    local wrong = #args > 0 and not FIELDS[args[1]] and misnamed(args[1], true) or 'the arguments are field and value in turn, without the * of XADD'
    return refused('convq_submit', wrong .. '; there are ' .. #args)
  end
  if #args > MOST_PARTS then
    return refused('convq_submit', string.format('a job has %d fields; %d may be', #args / 2, MOST_PARTS / 2))
  end
  local id, bytes, seen = '', 0, {}
  for i = 1, #args, 2 do
    local known = FIELDS[args[i]]
    if known and seen[args[i]] then
      return refused('convq_submit', args[i] .. ' must be given once')
    end
    local wrong = not known and not seen[args[i]] and misnamed(args[i], i == 1)
    if wrong then
      return refused('convq_submit', wrong)
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
    return refused('convq_submit_jobs', which(keys))
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
    return refused('convq_status', which(keys) .. '; the one argument is the id of a job')
  end
  return whereabouts(prefix .. 'result:' .. args[1], prefix .. 'job:' .. args[1], streams, args[1])
end

redis.register_function('convq_submit', convq_submit)
redis.register_function('convq_submit_jobs', convq_submit_jobs)
redis.register_function{ function_name = 'convq_refusal', callback = convq_submit_jobs, flags = { 'no-writes' } }
redis.register_function{ function_name = 'convq_status', callback = convq_status, flags = { 'no-writes' } }
