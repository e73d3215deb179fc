#!lua flags=allow-oom
-- mend: put a new stream in the place of one whose last entry id is far in the future, once nothing is left in it.
--
-- convq:{M}:jobs[:high|:low]  XLEN, XPENDING, XINFO STREAM; UNLINK and XGROUP CREATE of one that is empty
--
-- KEYS  high, jobs, low
-- ARGV  group, by how many ms a last id may be ahead of the clock
-- Reply the numbers (1..3) of the streams that are new now
--
-- Every entry's id must exceed the last one: after one from the future, all that follow are from the future too, and after the
-- largest of all there can be none. The server does not let the last id of a stream go back where such an entry was deleted.
-- What waits or runs stays where it is, under its own id, until it is answered: only then, and in the same step, the stream is
-- exchanged. Ids that are given from then on were never given here: those of this time were refused while the last was ahead.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function is_ahead(stream)
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return tonumber(string.match(info[i + 1], '^%d+')) - now > tonumber(ARGV[2])
    end
  end
end

local mended = {}
for lane, stream in ipairs(KEYS) do
  local pending = redis.pcall('XPENDING', stream, ARGV[1])
  if redis.pcall('XLEN', stream) == 0 and not pending.err and pending[1] == 0 and is_ahead(stream) then
    redis.call('UNLINK', stream)
    redis.call('XGROUP', 'CREATE', stream, ARGV[1], '0', 'MKSTREAM')
    mended[#mended + 1] = lane
  end
end
return mended
