#!lua flags=allow-oom
-- weight: what claim.lua, expire.lua, reclaim.lua and weigh.lua share: how many bytes an entry has, said without moving them.
--
-- convq:{M}:jobs[:high|:low]  XRANGE of one entry

-- The bytes of an entry's fields. Negative where it is larger than a job may be: `most` holds the most bytes of its image, of
-- its tensor, and of everything else. Nobody needs to read such an entry to refuse it.
local function weight_of(fields, most)
  local bytes, image, tensor = 0, 0, 0
  for i = 1, #fields, 2 do
    local name, size = fields[i], #fields[i + 1]
    bytes = bytes + #name + size
    if name == 'image' then
      image = image + size
    elseif name == 'tensor' then
      tensor = tensor + size
    end
  end
  if image > most[1] or tensor > most[2] or bytes - image - tensor > most[3] then
    return -bytes
  end
  return bytes
end

-- The same of an entry in its stream; nil where it is gone.
local function weigh(stream, entry, most)
  local found = redis.pcall('XRANGE', stream, entry, entry)
  return not found.err and found[1] and weight_of(found[1][2], most) or nil
end
