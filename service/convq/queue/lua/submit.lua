-- submit: put jobs into their streams, or refuse them all. Stands behind door.lua, which says what each key is for.
--
-- KEYS  cfg, high, jobs, low; the names of all others are made from that of cfg, see door.lua
-- ARGV  dedup_window_ms, then per job:
--       lane (1..3), id or "", bytes of the payload, how many of the following arguments are its fields, field, value, …
-- Reply one entry id per job, in order; or an error that begins with QUEUEFULL, ANSWERED, HELD or UNKNOWNMODEL, and nothing was
--       added. Where it can be told when to try again, that error ends with "; retry_after_ms=" and a number

return let_in(KEYS[1], { KEYS[2], KEYS[3], KEYS[4] }, ARGV[1], ARGV, jobs_in(ARGV, 2))
