-- drain: what door.lua, depth.lua and glance.lua share: how fast a shard drains, as measure.lua has written it down. Stands
-- behind numbers.lua.
--
-- convq:{M}:cfg  HMGET drain_*

local RATE_LASTS_MS = 10000 -- an older one says nothing: no service measures it any more

-- Jobs answered a second; nil where it was never measured while jobs waited (then it only says what came in), or not lately.
local function drain_rate(cfg)
  local facts = redis.pcall('HMGET', cfg, 'drain_per_s', 'drain_ms', 'drain_full')
  local rate, measured_ms = count(facts[1]), count(facts[2])
  local known = rate and measured_ms and facts[3] == '1' and math.abs(now_ms() - measured_ms) <= RATE_LASTS_MS
  return known and rate or nil
end

-- The same for a reply, which cuts numbers down to whole ones; false where it is not known.
local function drain_text(cfg)
  local rate = drain_rate(cfg)
  return rate and string.format('%.4f', rate) or false
end
