-- known: what is remembered of a job that was submitted with an id of its own. Put before the scripts that read or write it.
--
-- convq:{M}:job:<id>     MGET, SET, PTTL: "stream entry" until it is answered, then "stream answered <ms> <where> entry", where
--                        being the inbox that the answer went to, or - for the result key. The entry is always the last word
-- convq:{M}:result:<id>  PEXPIRE: a result lives as long as its id is remembered, at least

-- What such a value says: {stream, entry, answered_ms, where}, the last two where it was answered; nil for what is none.
local function remembered(value)
  if type(value) ~= 'string' then
    return nil
  end
  local stream, more, entry = string.match(value, '^(%S+) (.-)(%d+%-%d+)$')
  if not stream then
    return nil
  end
  local answered_ms, where = string.match(more, '^answered (%d+) (.+) $')
  if not where and more ~= '' then
    return nil
  end
  return { stream = stream, entry = entry, answered_ms = tonumber(answered_ms), where = where }
end

-- Write down that jobs were answered. `base` is the prefix of the shard's keys; a job is {id, entry, where as above}, and
-- `ttl_ms` is how long results live. Ids of jobs that came by a plain XADD are not remembered, and another entry's is left alone.
-- It follows a publication: whatever is refused here, for lack of a right perhaps, must not look as if that had been.
local function note_answered(base, jobs, ttl_ms)
  if #jobs == 0 then
    return
  end
  local keys = {}
  for n, job in ipairs(jobs) do
    keys[n] = base .. 'job:' .. job[1]
  end
  local values, time = redis.pcall('MGET', unpack(keys)), nil
  for n, job in ipairs(jobs) do
    local known = not values.err and remembered(values[n])
    if known and not known.where and known.entry == job[2] then
      time = time or redis.call('TIME')
      local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
      local value = string.format('%s answered %s %s %s', known.stream, now, job[3], known.entry)
      redis.pcall('SET', keys[n], value, 'KEEPTTL')
    end
    local left_ms = known and job[3] == '-' and redis.pcall('PTTL', keys[n])
    if type(left_ms) == 'number' and left_ms > tonumber(ttl_ms) then
      redis.pcall('PEXPIRE', base .. 'result:' .. job[1], left_ms)
    end
  end
end
