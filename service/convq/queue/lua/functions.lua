-- functions: what other languages call with FCALL; a library for FUNCTION LOAD, behind door.lua and the lines of functions.py.
--
-- convq:{M}:cfg, convq:{M}:jobs[:high|:low], convq:{M}:job:<id>: see door.lua
--
-- convq_submit: what XADD does, at the door: one job per id, and a full queue refuses.
-- KEYS  the stream of the wanted priority; the shard's other keys are made from its name, and lie in the same slot
-- ARGV  field, value, … exactly as XADD takes them behind the key and the entry id
-- Reply the entry id; or an error that begins with QUEUEFULL (see submit.lua) or ERR, and nothing was added

local LANES = { [':high'] = 1, [''] = 2, [':low'] = 3 }

local function refused(text)
  return redis.error_reply('ERR convq_submit: ' .. text)
end

local function convq_submit(keys, args)
  local prefix, suffix = string.match(keys[1] or '', '^(convq:{[a-z0-9][a-z0-9_-]*%.?%d*}:)jobs(:?%l*)$')
  local lane = LANES[suffix]
  if #keys ~= 1 or not lane then
    return refused("the one key is a job stream, like 'convq:{lenet}:jobs', with :high or :low at its end for another priority")
  end
  if #args == 0 or #args % 2 == 1 then
    return refused('the arguments are field and value in turn, without the * of XADD; there are ' .. #args)
  end
  local id, bytes = '', 0
  for i = 1, #args, 2 do
    if args[i] == 'id' then
      id = args[i + 1]
      if #id > 64 or not string.find(id, '^[%w._:-]+$') then
        return refused('id must be 1 to 64 characters of A-Z a-z 0-9 . _ : -')
      end
    elseif args[i] == 'image' or args[i] == 'tensor' then
      bytes = bytes + #args[i + 1]
    end
  end
  local streams = { prefix .. 'jobs:high', prefix .. 'jobs', prefix .. 'jobs:low' }
  local job = { lane = lane, id = id, bytes = bytes, from = 1, to = #args }
  local entries = let_in(prefix .. 'cfg', streams, DEDUP_WINDOW_MS, prefix .. 'job:', args, { job })
  return entries.err and entries or entries[1]
end

redis.register_function('convq_submit', convq_submit)
