-- status: where a job is. Stands behind known.lua and whereabouts.lua, which say what each key is for.
--
-- KEYS  result key, job key, high, jobs, low
-- ARGV  job id
-- Reply "done", "running", "waiting" or "unknown"

return whereabouts(KEYS[1], KEYS[2], { KEYS[3], KEYS[4], KEYS[5] }, ARGV[1])
