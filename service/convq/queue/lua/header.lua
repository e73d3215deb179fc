#!lua flags=allow-oom
-- header: what an entry says besides its payload, for an answer to a job that nobody is to read whole.
--
-- convq:{M}:jobs[:high|:low]  XRANGE of one entry
--
-- KEYS  the stream
-- ARGV  entry id, the longest value, the names of the payload with a comma between, then the names of the protocol
-- Reply nil where the entry is gone, or {bytes of all fields, bytes of all payloads, name, value, …}: fields of the protocol,
--       each name at most twice, which is once too often, each cut to the longest value; payloads are empty, and so are the first
--       few other fields, whose names are cut too

local MOST_OTHERS, LONGEST_NAME = 10, 64 -- more than an answer names
local seen, others = {}, 0
local known, payload = {}, {}
for i = 4, #ARGV do
  known[ARGV[i]] = true
end
for name in string.gmatch(ARGV[3], '[^,]+') do
  payload[name] = true
end
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then
  return false
end
local fields, header, bytes, payloads = found[2], {}, 0, 0
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  bytes = bytes + #name + #value
  if payload[name] then
    payloads = payloads + #value
    value = ''
  end
  if known[name] and (seen[name] or 0) < 2 then
    seen[name] = (seen[name] or 0) + 1
    header[#header + 1] = name
    header[#header + 1] = string.sub(value, 1, ARGV[2])
  elseif not known[name] and not seen[name] and others < MOST_OTHERS then
    seen[name], others = 1, others + 1
    header[#header + 1] = string.sub(name, 1, LONGEST_NAME)
    header[#header + 1] = ''
  end
end
return { bytes, payloads, unpack(header) }
