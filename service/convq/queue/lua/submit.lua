-- submit: put jobs into their streams, or refuse them all.
--
-- convq:{M}:cfg               HMGET max_jobs, max_bytes, bytes; HINCRBY bytes
-- convq:{M}:jobs[:high|:low]  XLEN, XADD
-- convq:{M}:job:<id>          SET NX: one job per id within the dedup window
--
-- KEYS  cfg, high, jobs, low
-- ARGV  dedup_window_ms, key prefix of convq:{M}:job:, then per job:
--       lane (1..3), id or "", bytes of the payload, how many of the following arguments are its fields, field, value, …
-- Reply one entry id per job, in order; or an error that begins with QUEUEFULL, and nothing was added
--
-- `bytes` in cfg is what the service last measured plus what was submitted since.
--
-- Entry ids are job ids, and three streams that each count from 0 in a millisecond would give three jobs one id. So each
-- lane counts from another number here: 0 in the normal one, as a plain XADD does, 10^9 and 2 * 10^9 in the others.

local cfg, window, prefix = KEYS[1], ARGV[1], ARGV[2]
local limits = redis.call('HMGET', cfg, 'max_jobs', 'max_bytes', 'bytes')
local max_jobs, max_bytes, bytes = tonumber(limits[1]), tonumber(limits[2]), tonumber(limits[3] or '0')

local count, size, i = 0, 0, 3
while i <= #ARGV do
  count = count + 1
  size = size + tonumber(ARGV[i + 2])
  i = i + 4 + tonumber(ARGV[i + 3])
end

if max_jobs then
  local there = redis.call('XLEN', KEYS[2]) + redis.call('XLEN', KEYS[3]) + redis.call('XLEN', KEYS[4])
  if there + count > max_jobs then
    return redis.error_reply('QUEUEFULL ' .. there .. ' jobs are in the queue, ' .. max_jobs .. ' may be')
  end
  if there > 0 and max_bytes and bytes + size > max_bytes then
    return redis.error_reply('QUEUEFULL ' .. bytes .. ' bytes are in the queue, ' .. max_bytes .. ' may be')
  end
end

local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local next_ms, next_seq = { now, nil, now }, { 1e9, nil, 2e9 }

local function add(lane, from, to)
  if not next_ms[lane] then
    return redis.pcall('XADD', KEYS[1 + lane], '*', unpack(ARGV, from, to))
  end
  local entry = redis.pcall('XADD', KEYS[1 + lane], string.format('%s-%.0f', next_ms[lane], next_seq[lane]), unpack(ARGV, from, to))
  if type(entry) == 'table' and string.find(entry.err, 'equal or smaller', 1, true) then
    -- Not the first of this millisecond, or the clock went back: go on behind the last entry, in this lane's numbers.
    local last = redis.call('XINFO', 'STREAM', KEYS[1 + lane])
    for i = 1, #last, 2 do
      if last[i] == 'last-generated-id' then
        local ms, seq = string.match(last[i + 1], '^(%d+)%-(%d+)$')
        next_ms[lane], next_seq[lane] = ms, math.max(next_seq[lane], tonumber(seq) + 1)
      end
    end
    entry = redis.pcall('XADD', KEYS[1 + lane], string.format('%s-%.0f', next_ms[lane], next_seq[lane]), unpack(ARGV, from, to))
  end
  next_seq[lane] = next_seq[lane] + 1
  return entry
end

local entries, added, n = {}, 0, 0
i = 3
while i <= #ARGV do
  local lane, id, length = tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 3])
  local known = id ~= '' and redis.call('GET', prefix .. id)
  n = n + 1
  if known then
    entries[n] = string.match(known, ' (%S+)$')
  else
    local entry = add(lane, i + 4, i + 3 + length)
    if type(entry) == 'table' then
      return entry
    end
    if id ~= '' then
      redis.call('SET', prefix .. id, KEYS[1 + lane] .. ' ' .. entry, 'PX', window)
    end
    entries[n] = entry
    added = added + tonumber(ARGV[i + 2])
  end
  i = i + 4 + length
end
if added > 0 then
  redis.call('HINCRBY', cfg, 'bytes', added)
end
return entries
