#!lua flags=allow-oom
-- complete: publish the results of one batch, each at most once, and delete the jobs.
--
-- convq:{M}:leases            read: a worker whose lease is gone publishes nothing
-- convq:{M}:jobs[:high|:low]  XACK, XDEL
-- convq:{M}:cancelled         SREM of the ids that are answered now
-- convq:{M}:result:<id>       RPUSH, PEXPIRE (where the job named no inbox)
-- convq:{M}:inbox:<client>    RPUSH, LTRIM, PEXPIRE (one push per inbox and batch)
--
-- KEYS  leases, high, jobs, low, cancelled
-- ARGV  group, incarnation, result_ttl_ms, inbox_ttl_ms, inbox_length, then per job:
--       lane (1..3), entry id, destination key, "i" (inbox), "r" (result key) or "n" (result key of an id that the client
--       chose), document, id to forget as cancelled or ""
-- Reply "FENCED", or one number per job: 1 published, 0 somebody else has answered it, -1 the inbox is of another type
--
-- XACK == 1 is the token: it is true at most once per entry, whoever asks, and the entry is deleted in the same step.
-- Acknowledging and deleting come before the first push: at maxmemory the push may need the room that they free.
-- XDEL only what XACK released: after XGROUP DESTROY an entry in flight is not pending, and must be delivered again.

local leases, cancelled = KEYS[1], KEYS[5]
local group, incarnation = ARGV[1], ARGV[2]
local result_ttl, inbox_ttl, inbox_length = ARGV[3], ARGV[4], tonumber(ARGV[5])

if not redis.call('ZSCORE', leases, incarnation) then
  return 'FENCED'
end

local replies = {}
local inbox_ok = {}   -- inbox key -> whether it can take a push
local inbox_docs = {} -- inbox key -> documents
local inboxes = {}    -- their order
local finished = { {}, {}, {} }
local n = 0

for i = 6, #ARGV, 6 do
  local lane, entry, destination, kind, forget = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 5]
  local usable = true
  if kind == 'i' then
    usable = inbox_ok[destination]
    if usable == nil then
      local type = redis.call('TYPE', destination).ok
      usable = type == 'list' or type == 'none'
      inbox_ok[destination] = usable
      if usable then
        inbox_docs[destination] = {}
        inboxes[#inboxes + 1] = destination
      end
    end
  end
  n = n + 1
  if not usable then
    replies[n] = -1
  elseif redis.call('XACK', KEYS[1 + lane], group, entry) == 1 then
    replies[n] = 1
    local done = finished[lane]
    done[#done + 1] = entry
    if kind == 'i' then
      local docs = inbox_docs[destination]
      docs[#docs + 1] = ARGV[i + 4]
    end
    if forget ~= '' then
      redis.call('SREM', cancelled, forget)
    end
  else
    replies[n] = 0
  end
end

for lane = 1, 3 do
  local done = finished[lane]
  for first = 1, #done, 1000 do
    redis.call('XDEL', KEYS[1 + lane], unpack(done, first, math.min(first + 999, #done)))
  end
end

for _, inbox in ipairs(inboxes) do
  local docs = inbox_docs[inbox]
  if #docs > 0 then
    local length = 0
    for first = 1, #docs, 1000 do
      length = redis.call('RPUSH', inbox, unpack(docs, first, math.min(first + 999, #docs)))
    end
    if length > inbox_length then
      redis.call('LTRIM', inbox, -inbox_length, -1)
    end
    redis.call('PEXPIRE', inbox, inbox_ttl)
  end
end

n = 0
for i = 6, #ARGV, 6 do
  n = n + 1
  if replies[n] == 1 and ARGV[i + 3] ~= 'i' then
    -- The key is ours by its name, but a stranger may have put something else there: its job is answered over that.
    local pushed = redis.pcall('RPUSH', ARGV[i + 2], ARGV[i + 4])
    if type(pushed) == 'table' then
      redis.call('DEL', ARGV[i + 2])
      redis.call('RPUSH', ARGV[i + 2], ARGV[i + 4])
    elseif pushed > 1 and ARGV[i + 3] == 'n' then
      redis.call('RPOP', ARGV[i + 2]) -- two entries with one client's id: the first answer stands
    end
    redis.call('PEXPIRE', ARGV[i + 2], result_ttl)
  end
end

return replies
