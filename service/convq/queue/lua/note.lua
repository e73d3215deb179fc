#!lua flags=allow-oom
-- note: write fields of one hash, and how long it lives.
--
-- convq:models   HSET, PEXPIRE
--
-- KEYS  the hash
-- ARGV  milliseconds that the hash lives from now on; field, value, field, value...
-- Reply 1
--
-- allow-oom: at maxmemory too it must be known who serves.

redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
