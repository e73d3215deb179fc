#!lua flags=no-writes
-- letters: what is in the dead-letter stream, newest first, without moving an image over the wire.
--
-- convq:{M}:dead  XREVRANGE, a page at a time
--
-- KEYS  dead
-- ARGV  end and start of the range as XREVRANGE takes them, how many at most, bytes of a value that are shown
-- Reply per letter: {id, name of the payload's field or "", its bytes, field, value, …} without the payload; a longer value
--       is cut, and says how long it was

local shown = tonumber(ARGV[4])
local page = {}
for _, letter in ipairs(redis.call('XREVRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  local row, fields = { letter[1], '', 0 }, letter[2]
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if i > 8 and (name == 'image' or name == 'tensor') then
      row[2], row[3] = name, row[3] + #value
    else
      row[#row + 1] = string.sub(name, 1, shown)
      row[#row + 1] = #value <= shown and value or string.sub(value, 1, shown) .. '… (' .. #value .. ' bytes)'
    end
  end
  page[#page + 1] = row
end
return page
