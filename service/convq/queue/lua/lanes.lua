-- lanes: what depth.lua and glance.lua share: how much one stream holds, as the server tells it. Stands behind numbers.lua.
--
-- convq:{M}:jobs[:high|:low]  XINFO STREAM, XINFO GROUPS

-- The value that stands behind `name` in a flat reply; nil where there is none.
local function fact(flat, name)
  for i = 1, #flat, 2 do
    if flat[i] == name then
      return flat[i + 1]
    end
  end
end

-- XINFO STREAM of it, its length, jobs pending, lag (-1: the server cannot tell); nil where it is no stream.
local function lane_of(stream, group)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then
    return nil
  end
  local pending, lag = 0, fact(info, 'length')
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, one in ipairs(groups.err and {} or groups) do
    if fact(one, 'name') == group then
      pending, lag = fact(one, 'pending'), fact(one, 'lag') or -1
    end
  end
  return info, fact(info, 'length'), pending, lag
end

-- The milliseconds in an entry's id.
local function ms_of(entry)
  return tonumber(string.match(entry, '^%d+'))
end
