-- names: which name somebody probably meant, for the door.

local MOST_NAMES, LONGEST_NAME = 200, 64 -- looked at: the server does nothing else meanwhile

-- How many letters must be left out, put in, replaced or exchanged with their neighbour to make b of a; most + 1 where it is more.
local function distance(a, b, most)
  if math.abs(#a - #b) > most then
    return most + 1
  end
  local before, last = nil, {}
  for j = 0, #b do
    last[j] = j
  end
  for i = 1, #a do
    local row, least = { [0] = i }, i
    for j = 1, #b do
      local there, here = string.byte(a, i), string.byte(b, j)
      local steps = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (there == here and 0 or 1))
      if i > 1 and j > 1 and there == string.byte(b, j - 1) and here == string.byte(a, i - 1) then
        steps = math.min(steps, before[j - 2] + 1)
      end
      row[j], least = steps, math.min(least, steps)
    end
    if least > most then
      return most + 1
    end
    before, last = last, row
  end
  return last[#b]
end

-- The name among these that is most like this one; nil where none is.
local function nearest(name, names)
  local best, steps = nil, math.max(1, math.floor(#name * 0.4)) + 1
  for n = 1, math.min(#names, MOST_NAMES) do
    local away = #names[n] <= LONGEST_NAME and distance(name, names[n], steps - 1) or steps
    if away < steps then
      best, steps = names[n], away
    end
  end
  return best
end
