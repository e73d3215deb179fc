-- status: where a job is. Stands behind whereabouts.lua, which says what each key is for.
--
-- KEYS  result key, job key, high, jobs, low
-- ARGV  group, job id
-- Reply "done", "running", "waiting" or "unknown"

return whereabouts(KEYS[1], KEYS[2], { KEYS[3], KEYS[4], KEYS[5] }, ARGV[1], ARGV[2])
