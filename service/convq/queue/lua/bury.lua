#!lua flags=allow-oom
-- bury: answer one job as poisoned and keep the whole of it as a dead letter. The image does not leave the server.
-- Stands behind known.lua.
--
-- convq:{M}:leases            read: a worker whose lease is gone buries nothing
-- convq:{M}:jobs[:high|:low]  XPENDING, XRANGE, XACK, XDEL
-- convq:{M}:dead              XADD with MAXLEN
-- convq:{M}:suspects          HDEL
-- convq:{M}:result:<id>       RPUSH, PEXPIRE (where the job named no inbox)
-- convq:{M}:inbox:<client>    RPUSH, LTRIM, PEXPIRE
-- convq:{M}:cancelled         SREM
-- convq:{M}:cfg               HINCRBY answered, failed
-- convq:{M}:job:<id>          that it is answered, see known.lua
--
-- KEYS  leases, stream of the job, dead, suspects, destination of the document, its result key (for an inbox that is no list),
--       cancelled, cfg
-- ARGV  group, incarnation, lane (0..2), entry id, document, ms that the document lives, dead letters to keep, reason, message,
--       job id, documents that the destination keeps
-- Reply "FENCED", 1 buried, 0 somebody else has answered it, 2 answered, but there could be no letter (dead is no stream)
--
-- A dead letter is the job's own fields and, before them, dead_reason, dead_message, dead_stream, dead_entry. Of an entry with
-- more fields than Lua can pass on, those of the protocol are kept, each at most twice, which is once too often. The letter comes first: it is what can be refused.

if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 'FENCED'
end
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[1], ARGV[4], ARGV[4], 1, ARGV[2])
if pending.err or #pending == 0 then
  return 0
end
local MOST_PARTS = 4000
local PROTOCOL = {}
for _, name in ipairs({ 'image', 'tensor', 'dtype', 'shape', 'id', 'ttl_ms', 'reply_to', 'top_k', 'outputs', 'version', 'traceparent',
  'client', 'min_score', 'iou', 'max_detections', 'labels', 'format' }) do
  PROTOCOL[name] = true
end

local entry, kept = redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4])[1], 1
if entry then
  local letter = { 'dead_reason', ARGV[8], 'dead_message', ARGV[9], 'dead_stream', KEYS[2], 'dead_entry', ARGV[4] }
  local fields, seen = entry[2], {}
  for i = 1, #fields, 2 do
    local name = fields[i]
    seen[name] = (seen[name] or 0) + 1
    if #fields <= MOST_PARTS or (PROTOCOL[name] and seen[name] <= 2) then
      letter[#letter + 1] = fields[i]
      letter[#letter + 1] = fields[i + 1]
    end
  end
  if type(redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', unpack(letter))) == 'table' then
    kept = 2
  end
end
redis.call('XACK', KEYS[2], ARGV[1], ARGV[4])
redis.call('XDEL', KEYS[2], ARGV[4])
redis.pcall('HDEL', KEYS[4], ARGV[3] .. ':' .. ARGV[4], 'slow:' .. ARGV[3] .. ':' .. ARGV[4])
redis.pcall('SREM', KEYS[7], ARGV[10])
local destination = KEYS[5]
local length = redis.pcall('RPUSH', destination, ARGV[5])
if type(length) == 'table' then
  if destination == KEYS[6] then
    redis.call('DEL', destination) -- ours by its name, whatever a stranger has put there
  end
  destination = KEYS[6]
  redis.pcall('RPUSH', destination, ARGV[5])
elseif length > tonumber(ARGV[11]) then
  redis.call('LTRIM', destination, -tonumber(ARGV[11]), -1)
end
redis.call('PEXPIRE', destination, ARGV[6])
if ARGV[10] ~= ARGV[4] then
  local where = destination == KEYS[6] and '-' or destination
  note_answered((string.gsub(KEYS[8], 'cfg$', '')), { { ARGV[10], ARGV[4], where } }, ARGV[6])
end
redis.pcall('HINCRBY', KEYS[8], 'answered', 1)
redis.pcall('HINCRBY', KEYS[8], 'failed', 1)
return kept
