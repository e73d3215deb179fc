-- weigh: how many bytes entries have that a worker was given and has not read. Stands behind weight.lua.
--
-- convq:{M}:jobs[:high|:low]  XRANGE
--
-- KEYS  high, jobs, low
-- ARGV  bytes to look at, most bytes of an image, of a tensor, of all else, then lane (1..3), entry id, …
-- Reply the weight of each entry as in weight.lua, 0 where it is gone; it ends with the one that went past the bytes to look
--       at, so that the server is not busy with what nobody has room for

local left, most = tonumber(ARGV[1]), { tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]) }
local weights = {}
for i = 5, #ARGV, 2 do
  local weight = weigh(KEYS[tonumber(ARGV[i])], ARGV[i + 1], most) or 0
  weights[#weights + 1] = weight
  left = left - math.abs(weight)
  if left <= 0 then
    break
  end
end
return weights
