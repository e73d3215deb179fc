-- requeue: put one dead letter back into the stream that it came from, as the same job. The image does not leave the server.
--
-- convq:{M}:dead              XRANGE, XDEL
-- convq:{M}:jobs[:high|:low]  XADD
-- convq:{M}:job:<id>          SET: where the job is now
-- convq:{M}:result:<id>       LREM of the old answer, else the new one would not stand beside it
-- convq:{M}:suspects          HDEL
-- convq:{M}:door              HINCRBY bytes
--
-- KEYS  dead, suspects, cfg, high, jobs, low; the name of door is made from that of cfg, as in door.lua
-- ARGV  id of the letter, dedup window in ms, key prefix of convq:{M}:job:, key prefix of convq:{M}:result:
-- Reply {new entry id, job id}, 0 where the letter is gone, or an error, and then nothing was changed
--
-- The first command that writes is the only one that the server may refuse. The door's limits do not count here: what is
-- put back was let in before. A job without an id of its own gets its old entry id, which its client waits for. One whose id is
-- malformed, or given twice, is answered under the entry id, as everywhere: the new one.
-- `ttl_ms` counts from the new entry on.

local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then
  return 0
end

-- bury.lua writes these four first, whatever else a client has called so.
local fields, told = letter[2], {}
for i = 1, 8, 2 do
  told[fields[i] or ''] = fields[i + 1]
end
local lane
for n = 1, 3 do
  if KEYS[3 + n] == told.dead_stream then
    lane = n
  end
end
if not lane or not told.dead_entry then
  return redis.error_reply('ERR entry ' .. ARGV[1] .. ' of ' .. KEYS[1] .. ' is no dead letter of convq')
end

local job, id, ids, bytes = {}, nil, 0, 0
for i = 9, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'id' then
    id, ids = value, ids + 1
  elseif name == 'image' or name == 'tensor' then
    bytes = bytes + #value
  end
  job[#job + 1] = name
  job[#job + 1] = value
end
if not id then
  id, ids = told.dead_entry, 1
  job[#job + 1] = 'id'
  job[#job + 1] = id
end

-- An entry id of the server's own: unlike the door's, it need not differ between lanes, as the job has an id.
local entry = redis.pcall('XADD', KEYS[3 + lane], '*', unpack(job))
if type(entry) == 'table' then
  return entry
end
local usable = ids == 1 and #id <= 64 and string.find(id, '^[%w._:-]+$')
if usable then
  redis.call('SET', ARGV[3] .. id, KEYS[3 + lane] .. ' ' .. entry, 'PX', ARGV[2])
end
local result = ARGV[4] .. (usable and id or told.dead_entry)
local documents = redis.pcall('LRANGE', result, 0, 99)
for _, document in ipairs(documents.err and {} or documents) do
  local readable, answer = pcall(cjson.decode, document)
  if readable and type(answer) == 'table' and answer.entry == told.dead_entry then
    redis.call('LREM', result, 1, document)
  end
end
local suspect = (lane - 1) .. ':' .. told.dead_entry
redis.pcall('HDEL', KEYS[2], suspect, 'slow:' .. suspect)
redis.pcall('HINCRBY', (string.gsub(KEYS[3], 'cfg$', 'door')), 'bytes', bytes)
redis.call('XDEL', KEYS[1], ARGV[1])
return { entry, usable and id or entry }
