-- A batch of changes to the evidence of one bucket, applied once.
--
-- KEYS[1] is the bucket's mark of what it has had of the sender: the number of the last batch, and
-- what that one moved. The other keys are hashes of networks and autonomous systems: field "" is
-- the sum, every other one a host.
--
-- ARGV is the batch's number, 1 to apply it although earlier ones are missing, when the mark
-- expires, how many hosts a network may hold, 1 to keep what it moved with the mark, the newest
-- slice that a record may have, and the changes: each an operation, the place of its key in KEYS,
-- and
--   learn  FIELD SLICE SPAM HAM STATE   adds counts to a host, what that moves to its network,
--       and sets the host's tier unless STATE is ""
--   move   SLICE SPAM HAM PASTSPAM PASTHAM   adds what hosts moved, to an autonomous system
--   enter  FIELD STATE   sets a host's tier
--   remove  FIELD   takes a host's part out of its network and removes the host
--   merge  FIELD RECORD   adds another store's record to a host, which then speaks in its
--       network as one, or to the sum
--   restore  FIELD RECORD   gives a host a record, which then speaks in its network, or the sum,
--       unless there is one already
--   subtract  RECORD   takes the part of a host with such a record out of an autonomous system
--
-- It returns the word "applied", "had" for a batch that was applied before, or "behind" when
-- earlier ones are missing; the number of the last batch that was applied; for each change, what it
-- found and left of the host and what that moved, or an error's text; and for each key, what it
-- found and left of the sum, or an error's text.
--
-- Counting is all that is done here: it is what AddCount, Apply, Without, Merge and Rejoin of
-- package reputation do, to the bit.

local MARK = KEYS[1]
local number, forced, expire, limit, keep = tonumber(ARGV[1]), ARGV[2] == '1', ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local newest = tonumber(ARGV[6])

local had, moved = 0, false
local mark = redis.call('GET', MARK)
if mark then
  had, moved = struct.unpack('>I8', mark), string.sub(mark, 9)
end
if number <= had then
  return { 'had', had, moved and #moved > 0 and number == had and cmsgpack.unpack(moved) or {}, {} }
end
if had ~= number - 1 and not forced then
  return { 'behind', had, {}, {} }
end

-- A record: version and tier, newest slice, when the tier was entered and the score then; spam and
-- ham of each recent slice, of each long one.
local FORMAT = '>I1I3I3i1' .. string.rep('i2i2', SLICES) .. string.rep('i3i3', PASTS)
local RECENT, PAST = 5, 5 + 2 * SLICES

local function clear(e, first, last, size, at)
  for i = math.max(first, last - size + 1, 0), last do
    local p = at + 2 * (i % size)
    e[p], e[p + 1] = 0, 0
  end
end

local function advance(e, n)
  if n <= e[2] then return end
  clear(e, e[2] + 1, n, SLICES, RECENT)
  clear(e, math.floor(e[2] / PER_PAST) + 1, math.floor(n / PER_PAST), PASTS, PAST)
  e[2] = n
end

-- The places of a recent slice and of the long one that it lies in, nil for one that is not kept.
local function recent(e, n)
  if n <= e[2] and n + SLICES > e[2] then return RECENT + 2 * (n % SLICES) end
end

local function past(e, m)
  local newest = math.floor(e[2] / PER_PAST)
  if m <= newest and m + PASTS > newest then return PAST + 2 * (m % PASTS) end
end

local function stopped(n, most)
  return math.min(math.max(n, -most), most)
end

local function plus(e, p, spam, ham, most)
  e[p], e[p + 1] = stopped(e[p] + spam, most), stopped(e[p + 1] + ham, most)
end

-- Lets nothing in a record be later than it may be: what is counts in the newest slice that may be.
local function heal(e)
  e[3] = math.min(e[3], newest * CLOCKS)
  if e[2] <= newest then return e end
  local healed = { e[1], newest, e[3], e[4] }
  for i = RECENT, PAST + 2 * PASTS - 1 do healed[i] = 0 end
  for i = 0, SLICES - 1 do
    local n = e[2] - i
    local p, q = recent(healed, math.min(n, newest)), RECENT + 2 * (n % SLICES)
    if n >= 0 and p then plus(healed, p, e[q], e[q + 1], MOST_RECENT) end
  end
  for i = 0, PASTS - 1 do
    local m = math.floor(e[2] / PER_PAST) - i
    local p, q = past(healed, math.min(m, math.floor(newest / PER_PAST))), PAST + 2 * (m % PASTS)
    if m >= 0 and p then plus(healed, p, e[q], e[q + 1], MOST_PAST) end
  end
  return healed
end

local function decode(record)
  if not record then
    local e = { VERSION * 16, 0, 0, 0 }
    for i = RECENT, PAST + 2 * PASTS - 1 do e[i] = 0 end
    return e
  end
  if #record ~= SIZE or math.floor(string.byte(record) / 16) ~= VERSION then
    return nil
  end
  return heal({ struct.unpack(FORMAT, record) })
end

local function encode(e)
  return struct.pack(FORMAT, unpack(e, 1, PAST + 2 * PASTS - 1))
end

local function contribution(spam, ham)
  spam, ham = math.max(spam, 0), math.max(ham, 0)
  local all = spam + ham
  if all > CONTRIBUTION_CAP then
    spam = math.floor((spam * CONTRIBUTION_CAP + math.floor(all / 2)) / all)
    ham = CONTRIBUTION_CAP - spam
  end
  return spam, ham
end

-- Adds to a host's count and returns what that moves in its network's.
local function shift(e, p, spam, ham, most)
  if not p then return 0, 0 end
  local s, h = contribution(e[p], e[p + 1])
  plus(e, p, spam, ham, most)
  local s2, h2 = contribution(e[p], e[p + 1])
  return s2 - s, h2 - h
end

local function apply(e, n, spam, ham, pastspam, pastham)
  advance(e, n)
  local p = past(e, math.floor(n / PER_PAST))
  if p then plus(e, p, pastspam, pastham, MOST_PAST) end
  p = recent(e, n)
  if p then plus(e, p, spam, ham, MOST_RECENT) end
end

-- Adds to each slice that both keep what f makes of the other's.
local function combine(e, other, f)
  local function add(p, q, most)
    if p and q then
      local s, h = f(other[q], other[q + 1])
      plus(e, p, s, h, most)
    end
  end
  for i = 0, SLICES - 1 do
    local n = other[2] - i
    if n >= 0 then add(recent(e, n), recent(other, n), MOST_RECENT) end
  end
  for i = 0, PASTS - 1 do
    local m = math.floor(other[2] / PER_PAST) - i
    if m >= 0 then add(past(e, m), past(other, m), MOST_PAST) end
  end
end

local function without(e, host)
  combine(e, host, function(s, h)
    s, h = contribution(s, h)
    return -s, -h
  end)
end

local function copy(e)
  return { unpack(e, 1, PAST + 2 * PASTS - 1) }
end

local function merge(a, b)
  for _, i in ipairs({ 2, 1, 3, 4 }) do
    if a[i] ~= b[i] then
      if a[i] < b[i] then a, b = b, a end
      break
    end
  end
  a = copy(a)
  combine(a, b, function(s, h) return s, h end)
  return a
end

local function join(sum, host)
  advance(sum, host[2])
  combine(sum, host, contribution)
end

local function rejoin(sum, a, b, both)
  advance(sum, both[2])
  without(sum, a)
  without(sum, b)
  join(sum, both)
end

local function enter(e, state)
  if state ~= '' then
    local first, _, since, at = struct.unpack('>I1I3I3i1', state)
    e[1], e[3], e[4] = first, since, at
  end
end

-- What is known is read before anything is written: a key or record of another program spoils its
-- own changes and no others.
local keys = {}
for i = 2, #KEYS do
  keys[i] = { fields = { '' }, found = {}, now = {}, dirty = {} }
end
local changes, at = {}, 7
local LENGTH = { learn = 7, move = 7, enter = 4, remove = 3, merge = 4, restore = 4, subtract = 3 }
while at <= #ARGV do
  local op, k = ARGV[at], keys[tonumber(ARGV[at + 1])]
  changes[#changes + 1] = { op = op, key = k, at = at + 2 }
  if op ~= 'move' and op ~= 'subtract' and k.found[ARGV[at + 2]] == nil then
    k.found[ARGV[at + 2]] = false
    k.fields[#k.fields + 1] = ARGV[at + 2]
  end
  at = at + LENGTH[op]
end
for i = 2, #KEYS do
  local k = keys[i]
  local values = redis.pcall('HMGET', KEYS[i], unpack(k.fields))
  if values.err then
    k.err = values.err
  else
    for j, field in ipairs(k.fields) do
      k.found[field] = values[j]
      k.now[field] = decode(values[j])
      if not k.now[field] then k.err = 'a record of another version or program' end
    end
  end
end

local results, kept = {}, {}
for i, c in ipairs(changes) do
  local k, a = c.key, c.at
  if k.err then
    results[i] = k.err
  elseif c.op == 'move' then
    apply(k.now[''], tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]))
    k.dirty[''] = true
    results[i] = {}
  elseif c.op == 'subtract' then
    local host = decode(ARGV[a])
    if host then without(k.now[''], host) end
    k.dirty[''] = true
    results[i] = {}
  else
    local field = ARGV[a]
    local host, found = k.now[field], k.found[field]
    local s, h, ps, ph = 0, 0, 0, 0
    if c.op == 'learn' then
      local n, spam, ham = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
      advance(host, n)
      ps, ph = shift(host, past(host, math.floor(n / PER_PAST)), spam, ham, MOST_PAST)
      s, h = shift(host, recent(host, n), spam, ham, MOST_RECENT)
      apply(k.now[''], n, s, h, ps, ph)
      enter(host, ARGV[a + 4])
      k.dirty[''], k.dirty[field] = true, true
    elseif c.op == 'merge' then
      local other = decode(ARGV[a + 1])
      local both = merge(host, other)
      if field ~= '' then
        rejoin(k.now[''], host, other, both)
        k.dirty[''] = true
      end
      k.now[field] = both
      k.dirty[field] = true
      host = both
    elseif c.op == 'restore' then
      if not found then
        host = decode(ARGV[a + 1])
        if field ~= '' then
          join(k.now[''], host)
          k.dirty[''] = true
        end
        k.now[field] = host
        k.dirty[field] = true
      end
    elseif c.op == 'enter' then
      -- A host that was forgotten meanwhile stays forgotten.
      if k.dirty[field] == true or found and k.dirty[field] ~= 'gone' then
        enter(host, ARGV[a + 1])
        k.dirty[field] = true
      end
    else
      without(k.now[''], host)
      host = decode(false)
      k.now[field] = host
      k.dirty[''], k.dirty[field] = true, 'gone'
    end
    results[i] = { found or '', encode(host), s, h, ps, ph }
    kept[i] = { '', '', s, h, ps, ph }
  end
end

local function has_ham(e)
  for p = PAST, PAST + 2 * PASTS - 1, 2 do
    if e[p + 1] > 0 then return true end
  end
  return false
end

-- Makes room in a network for hosts that it does not hold yet, so that it never comes to hold more
-- than the compact encoding of Redis takes. Those without ham go first, of the old ones those not
-- heard of for longest, then new ones; those with ham only for others with ham. It returns for how
-- many of the new ones without ham, and of those with it, there is no room.
local function make_room(key, k, new, plain)
  local excess = redis.call('HLEN', key) + new - (limit + 1)
  if excess <= 0 then return 0, 0 end
  local all, poor, rich = redis.call('HGETALL', key), {}, {}
  for i = 1, #all, 2 do
    local e = not k.now[all[i]] and decode(all[i + 1])
    if e then
      local list = has_ham(e) and rich or poor
      list[#list + 1] = { all[i], e[2] }
    end
  end
  local function remove(list, n)
    table.sort(list, function(a, b)
      if a[2] ~= b[2] then return a[2] < b[2] end
      return a[1] < b[1]
    end)
    for i = 1, math.min(#list, n) do
      redis.call('HDEL', key, list[i][1])
    end
  end
  -- An eighth more than is needed, so that it need not be done for each host of a flood.
  remove(poor, excess + math.floor(limit / 8))
  local rest = math.max(0, excess - #poor)
  local surplus = math.min(rest, plain)
  rest = rest - surplus
  remove(rich, rest)
  return surplus, math.max(0, rest - #rich)
end

local sums = {}
for i = 2, #KEYS do
  local k = keys[i]
  if k.err then
    sums[i - 1] = k.err
  else
    local set, gone, new, plain = {}, {}, 0, 0
    local function is_new(field)
      return field ~= '' and k.dirty[field] and k.dirty[field] ~= 'gone' and not k.found[field]
    end
    for _, field in ipairs(k.fields) do
      if is_new(field) then
        new = new + 1
        if not has_ham(k.now[field]) then plain = plain + 1 end
      end
    end
    local surplus, more = 0, 0
    if new > 0 then surplus, more = make_room(KEYS[i], k, new, plain) end
    for _, field in ipairs(k.fields) do
      if k.dirty[field] == 'gone' then
        gone[#gone + 1] = field
      elseif surplus > 0 and is_new(field) and not has_ham(k.now[field]) then
        surplus = surplus - 1
      elseif more > 0 and is_new(field) and has_ham(k.now[field]) then
        more = more - 1
      elseif k.dirty[field] then
        set[#set + 1] = field
        set[#set + 1] = encode(k.now[field])
      end
    end
    if #gone > 0 then redis.call('HDEL', KEYS[i], unpack(gone)) end
    if #set > 0 then
      redis.call('HSET', KEYS[i], unpack(set))
      -- When the last of it has left the rings of slices, the key goes.
      redis.call('EXPIREAT', KEYS[i], (k.now[''][2] + 1 + PASTS * PER_PAST) * WIDTH)
    end
    sums[i - 1] = { k.found[''] or '', encode(k.now['']) }
  end
end
redis.call('SET', MARK, struct.pack('>I8', number) .. (keep and cmsgpack.pack(kept) or ''), 'EXAT', expire)
return { 'applied', number, results, sums }
