-- claim: XREADGROUP that says what it has claimed and how large it is, and moves no payload. Stands behind weight.lua.
--
-- convq:{M}:leases            read: a worker without a lease claims nothing
-- convq:{M}:jobs[:high|:low]  XREADGROUP
--
-- KEYS  leases, high, jobs, low
-- ARGV  group, incarnation, bytes, most bytes of an image, of a tensor, of all else, jobs of each lane (3 numbers)
-- Reply "FENCED", or flat: lane (0..2), entry id, weight as in weight.lua, …
--
-- For a worker whose predecessor died while a reply came in: images pass through Lua here, which is slow. It claims one entry
-- after the other until the bytes are used up, and at least one.

if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 'FENCED'
end
local left, most = tonumber(ARGV[3]), { tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]) }
local claimed = {}
for lane = 1, 3 do
  for _ = 1, tonumber(ARGV[6 + lane]) do
    local read = left > 0 and redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1 + lane], '>')
    if not read or read.err then
      break
    end
    local entry = read[1][2][1]
    local weight = weight_of(entry[2], most)
    claimed[#claimed + 1] = lane - 1
    claimed[#claimed + 1] = entry[1]
    claimed[#claimed + 1] = weight
    left = left - math.abs(weight)
  end
end
return claimed
