#!lua flags=allow-oom
-- note: write fields of one hash, and how long it lives.
--
-- convq:models   HSET, PEXPIRE
--
-- KEYS  the hash
-- ARGV  milliseconds that the hash lives from now on, or "" to leave that alone; field, value, field, value...
-- Reply 1
--
-- allow-oom: at maxmemory too it must be known who serves, and how much waits.

redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ARGV[1] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
