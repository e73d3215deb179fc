-- numbers: what door.lua, drain.lua, depth.lua, glance.lua, measure.lua, reclaim.lua and renew.lua share: counts and the clock.

-- What others may have written: nil for all that is no count.
local function count(text)
  local value = tonumber(text)
  return value and value >= 0 and value <= 2 ^ 53 and value or nil
end

-- The server's clock, in milliseconds since 1970.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
