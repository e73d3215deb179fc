#!lua flags=allow-oom
-- complete: publish the results of one batch, each at most once, and delete the jobs. Stands behind known.lua.
--
-- convq:{M}:leases            read: a worker whose lease is gone publishes nothing
-- convq:{M}:jobs[:high|:low]  XPENDING, XACK, XDEL
-- convq:{M}:cancelled         SREM of the ids that are answered now
-- convq:{M}:result:<id>       RPUSH, PEXPIRE (where the job named no inbox)
-- convq:{M}:inbox:<client>    RPUSH, LTRIM, PEXPIRE (one push per inbox and batch)
-- convq:{M}:cfg               HINCRBY answered: what the drain rate is estimated from; failed: of them as errors, for people
-- convq:{M}:suspects          HDEL of suspects that are answered now
-- convq:{M}:job:<id>          that it is answered, see known.lua
--
-- KEYS  leases, high, jobs, low, cancelled, suspects, cfg
-- ARGV  group, incarnation, result_ttl_ms, inbox_ttl_ms, inbox_length,
--       ids to forget as cancelled, suspects to forget (lane:entry); both with commas between,
--       how many of the jobs ended as errors,
--       bytes of the documents where they are many: then they need room under maxmemory; else 0,
--       then jobs in groups: lane (1..3), kind, destination, how many, and for each of them entry id, document
--       kind "i": destination is an inbox; "k": the same, of jobs with ids that the client chose, each id behind its document;
--       "r": it is a result key; "n": a result key of an id that the client chose
-- Reply "FENCED"; "FULL" where there is no room: nothing has changed then; or {how many were published, {positions of jobs that somebody else has answered},
--       {positions of jobs that are still ours, because their inbox is of another type}}, positions counted from 1
--
-- The token of publication is to be pending under this worker and to be acknowledged in the same step: that is true at
-- most once per entry, whoever asks, because the entry is deleted with it.
-- Acknowledging and deleting come before the first push: at maxmemory the push may need the room that they free.
-- XDEL only what XACK released: after XGROUP DESTROY an entry in flight is not pending, and must be delivered again.

local leases, cancelled = KEYS[1], KEYS[5]
local group, incarnation = ARGV[1], ARGV[2]
local result_ttl, inbox_ttl, inbox_length = ARGV[3], ARGV[4], tonumber(ARGV[5])
local FIRST_GROUP = 10
local KEPT_FREE = 0.1 -- of maxmemory: large answers leave it to jobs and to small answers

if not redis.call('ZSCORE', leases, incarnation) then
  return 'FENCED'
end

-- Whether so many bytes have room. This script may write past maxmemory, and then nobody's job would be let in. What the
-- server takes while it copies them counts: the call itself is part of what is used. Who may not ask is not refused.
local function has_room(bytes)
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' then
    return true
  end
  local function figure(name)
    return tonumber(string.match(info, '\n' .. name .. ':(%d+)')) or 0
  end
  local most = figure('maxmemory')
  return most == 0 or figure('used_memory') - figure('mem_not_counted_for_evict') + bytes <= most * (1 - KEPT_FREE)
end

if ARGV[9] ~= '0' and not has_room(tonumber(ARGV[9])) then
  return 'FULL'
end

-- What of one group is pending under this worker. Entries of a group nearly always lie in one stretch of the stream, which
-- one command reads; those outside it (taken over from another worker) are asked for one by one.
local function holdings(stream, first, last, count)
  local held = {}
  local pending = redis.pcall('XPENDING', stream, group, first, last, count, incarnation)
  if not pending.err then
    for _, row in ipairs(pending) do
      held[row[1]] = true
    end
  end
  return held
end

local function take(held, stream, entry)
  if held[entry] == nil then
    held[entry] = holdings(stream, entry, entry, 1)[entry] or false
  end
  local mine = held[entry]
  held[entry] = false -- named twice in one batch it counts once
  return mine
end

local base = string.gsub(KEYS[7], 'cfg$', '')
local finished = { {}, {}, {} } -- per lane: entries to acknowledge and delete
local pushes = {}               -- {whether to an inbox, kind, destination, {documents}}
local named = {}                -- jobs with ids of their own, as known.lua takes them
local lost, refused = {}, {}
local position, published, i = 0, 0, FIRST_GROUP

while i <= #ARGV do
  local lane, kind, destination, count = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local usable, to_inbox, step = true, kind == 'i' or kind == 'k', kind == 'k' and 3 or 2
  local own_id = kind == 'n' and string.sub(destination, #base + #'result:' + 1)
  if to_inbox then
    local type = redis.call('TYPE', destination).ok
    usable = type == 'list' or type == 'none'
  end
  local stream, done, documents = KEYS[1 + lane], finished[lane], {}
  local last = i + 4 + step * (count - 1)
  local held = usable and holdings(stream, ARGV[i + 4], ARGV[last], count)
  for at = i + 4, last, step do
    position = position + 1
    if not usable then
      refused[#refused + 1] = position
    elseif take(held, stream, ARGV[at]) then
      done[#done + 1] = ARGV[at]
      documents[#documents + 1] = ARGV[at + 1]
      if own_id or kind == 'k' then
        named[#named + 1] = { own_id or ARGV[at + 2], ARGV[at], own_id and '-' or destination }
      end
    else
      lost[#lost + 1] = position
    end
  end
  if #documents > 0 then
    published = published + #documents
    pushes[#pushes + 1] = { to_inbox, kind, destination, documents }
  end
  i = last + step
end

for lane = 1, 3 do
  local done = finished[lane]
  if #done > 0 then
    redis.call('XACK', KEYS[1 + lane], group, unpack(done))
    redis.call('XDEL', KEYS[1 + lane], unpack(done))
  end
end

for _, push in ipairs(pushes) do
  local to_inbox, kind, destination, documents = push[1], push[2], push[3], push[4]
  local length = redis.pcall('RPUSH', destination, unpack(documents))
  if to_inbox then
    if length > inbox_length then
      redis.call('LTRIM', destination, -inbox_length, -1)
    end
    redis.call('PEXPIRE', destination, inbox_ttl)
  else
    if type(length) == 'table' then
      -- The key is ours by its name, but a stranger has put something else there: the result goes over it.
      redis.call('DEL', destination)
      redis.call('RPUSH', destination, unpack(documents))
    elseif kind == 'n' and length > 1 then
      redis.call('LTRIM', destination, 0, 0) -- two entries with one client's id: the first answer stands
    end
    redis.call('PEXPIRE', destination, result_ttl)
  end
end

note_answered(base, named, result_ttl) -- all that follows a publication may fail, and must not look as if that had
for id in string.gmatch(ARGV[6], '[^,]+') do
  redis.pcall('SREM', cancelled, id)
end
for suspect in string.gmatch(ARGV[7], '[^,]+') do
  redis.pcall('HDEL', KEYS[6], suspect, 'slow:' .. suspect)
end

if published > 0 then
  redis.pcall('HINCRBY', KEYS[7], 'answered', published)
  if ARGV[8] ~= '0' then
    redis.pcall('HINCRBY', KEYS[7], 'failed', math.min(ARGV[8], published))
  end
end

return { published, lost, refused }
