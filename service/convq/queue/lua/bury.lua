#!lua flags=allow-oom
-- bury: answer one job as poisoned and keep the whole of it as a dead letter. The image does not leave the server.
--
-- convq:{M}:leases            read: a worker whose lease is gone buries nothing
-- convq:{M}:jobs[:high|:low]  XPENDING, XRANGE, XACK, XDEL
-- convq:{M}:dead              XADD with MAXLEN
-- convq:{M}:suspects          HDEL
-- convq:{M}:result:<id>       RPUSH, PEXPIRE (where the job named no inbox)
-- convq:{M}:inbox:<client>    RPUSH, PEXPIRE
--
-- KEYS  leases, stream of the job, dead, suspects, destination of the document
-- ARGV  group, incarnation, lane (0..2), entry id, document, ms that the document lives, dead letters to keep, reason, message
-- Reply "FENCED", 1 buried, 0 somebody else has answered it
--
-- A dead letter is the job's own fields and, beside them, dead_reason, dead_message, dead_stream, dead_entry.

if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 'FENCED'
end
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[1], ARGV[4], ARGV[4], 1, ARGV[2])
if pending.err or #pending == 0 then
  return 0
end
local entry = redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4])[1]
redis.call('XACK', KEYS[2], ARGV[1], ARGV[4])
redis.call('XDEL', KEYS[2], ARGV[4])
redis.call('HDEL', KEYS[4], ARGV[3] .. ':' .. ARGV[4])
if entry then
  local letter = { 'dead_reason', ARGV[8], 'dead_message', ARGV[9], 'dead_stream', KEYS[2], 'dead_entry', ARGV[4] }
  for _, part in ipairs(entry[2]) do
    letter[#letter + 1] = part
  end
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', unpack(letter))
end
local pushed = redis.pcall('RPUSH', KEYS[5], ARGV[5])
if type(pushed) == 'table' then
  redis.call('DEL', KEYS[5])
  redis.call('RPUSH', KEYS[5], ARGV[5])
end
redis.call('PEXPIRE', KEYS[5], ARGV[6])
return 1
