-- expire: answer jobs whose time is over where they lie, so that their images never cross the wire; claim the others. Stands behind
-- known.lua and weight.lua.
--
-- convq:{M}:leases            read: a worker without a lease claims nothing
-- convq:{M}:jobs[:high|:low]  XREADGROUP, XACK, XDEL
-- convq:{M}:result:<id>       RPUSH, PEXPIRE
-- convq:{M}:inbox:<client>    RPUSH, LTRIM, PEXPIRE
-- convq:{M}:cfg               HINCRBY answered
-- convq:{M}:job:<id>          that it is answered, see known.lua
--
-- KEYS  leases, high, jobs, low, cfg
-- ARGV  group, incarnation, how many entries to look at per lane, result_ttl_ms, inbox_ttl_ms, inbox_length,
--       prefix of result keys, prefix of inbox keys, model, worker, most bytes of an image, of a tensor, of all else, then the
--       names of the protocol's fields
-- Reply "FENCED", or {expired per lane (3 numbers), lane (0..2), entry id, weight as in weight.lua, … of the jobs that were claimed}
--
-- Only what is plainly expired is answered here; whatever has a malformed field, or a name that is not plain, goes to the worker,
-- which knows the words.

if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 'FENCED'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local MOST_INBOX_BYTES, LONGEST_NAME, MOST_IGNORED = 256, 40, 10 -- as entries.py says, of an inbox of its characters
local known = {}
for i = 14, #ARGV do
  known[ARGV[i]] = true
end

local function plainly_expired(entry, fields)
  local seen, ignored = {}, {}
  for i = 1, #fields, 2 do
    local name = fields[i]
    if seen[name] then
      return nil
    end
    seen[name] = fields[i + 1]
    if not known[name] then
      if #name > LONGEST_NAME or string.find(name, '[^\32-\126]') then
        return nil
      end
      ignored[#ignored + 1] = #ignored < MOST_IGNORED and name or nil
    end
  end
  local ttl, id, inbox = seen['ttl_ms'], seen['id'] or entry, seen['reply_to']
  if not ttl or not string.match(ttl, '^%d+$') or #ttl > 15 then
    return nil
  end
  if now - tonumber(string.match(entry, '^%d+')) <= tonumber(ttl) then
    return nil
  end
  if not string.match(id, '^[%w._:-]+$') or #id > 64 then
    return nil
  end
  if inbox then
    local length = #inbox - #ARGV[8]
    local named = string.sub(inbox, 1, #ARGV[8]) == ARGV[8] and length > 0 and length <= MOST_INBOX_BYTES
    local type = named and redis.call('TYPE', inbox).ok
    if type ~= 'list' and type ~= 'none' then
      return nil
    end
  end
  return id, inbox, ignored
end

local most = { tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]) }
local reply, named = { 0, 0, 0 }, {}
for lane = 1, 3 do
  local stream, gone = KEYS[1 + lane], {}
  local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', stream, '>')
  for _, row in ipairs(read and not read.err and read[1][2] or {}) do
    local entry = row[1]
    local id, inbox, ignored = plainly_expired(entry, row[2])
    if id then
      gone[#gone + 1] = { entry, id, inbox, ignored }
    else
      reply[#reply + 1] = lane - 1
      reply[#reply + 1] = entry
      reply[#reply + 1] = weight_of(row[2], most)
    end
  end
  for _, job in ipairs(gone) do
    redis.call('XACK', stream, ARGV[1], job[1])
    redis.call('XDEL', stream, job[1])
  end
  for _, job in ipairs(gone) do
    local entry, id, inbox = job[1], job[2], job[3]
    if id ~= entry then
      named[#named + 1] = { id, entry, inbox or '-' }
    end
    local age = now - tonumber(string.match(entry, '^%d+'))
    local document = string.format(
      '{"v":1,"id":"%s","entry":"%s","model":"%s","status":"expired","attempt":1,"worker":%s,'
        .. '"timing_ms":{"queue":%d,"decode":0,"batch":0,"infer":0,"total":%d}%s}',
      id, entry, ARGV[9], cjson.encode(ARGV[10]), age, age, #job[4] > 0 and ',"ignored":' .. cjson.encode(job[4]) or '')
    if inbox then
      if redis.call('RPUSH', inbox, document) > tonumber(ARGV[6]) then
        redis.call('LTRIM', inbox, -tonumber(ARGV[6]), -1)
      end
      redis.call('PEXPIRE', inbox, ARGV[5])
    else
      local key = ARGV[7] .. id
      local length = redis.pcall('RPUSH', key, document)
      if type(length) == 'table' then
        redis.call('DEL', key)
        redis.call('RPUSH', key, document)
      elseif length > 1 and id ~= entry then
        redis.call('LTRIM', key, 0, 0)
      end
      redis.call('PEXPIRE', key, ARGV[4])
    end
  end
  reply[lane] = #gone
end
note_answered((string.gsub(KEYS[5], 'cfg$', '')), named, ARGV[4])
local expired = reply[1] + reply[2] + reply[3]
if expired > 0 then
  redis.pcall('HINCRBY', KEYS[5], 'answered', expired)
end
return reply
