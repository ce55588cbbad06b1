"""What the server does in one step, so that no other client comes between. In Lua; arguments are
bytes, numbers decimal."""

from __future__ import annotations

PUT = """
-- KEYS: store, counters. ARGV: namespace id, its entry, start of row keys, ms to live or "",
-- seconds, then digest and row of each. Which were new, or nil if the entry is another by now.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return false end
local new, count = {}, 0
for at = 6, #ARGV, 2 do
  local key, done = ARGV[3] .. ARGV[at], nil
  if ARGV[4] == '' then done = redis.call('SET', key, ARGV[at + 1], 'NX')
  else done = redis.call('SET', key, ARGV[at + 1], 'NX', 'PX', ARGV[4]) end
  if done then count = count + 1; new[#new + 1] = '1' else new[#new + 1] = '0' end
end
if count > 0 then
  redis.call('HINCRBY', KEYS[2], 'entries', count)
  redis.call('HINCRBY', KEYS[2], 'computed', count)
  redis.call('HINCRBYFLOAT', KEYS[2], 'seconds', ARGV[5])
end
return table.concat(new)
"""

CLAIM = """
-- KEYS: store, owners, counters. ARGV: namespace id, its entry or "" for none, start of row keys,
-- start of claim keys, owner, ms of the lease, most, then digests.
-- m, s, t or - for each, token, other owners, computed, seconds; nil if the entry is another now.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return false end
local time, lease, most = redis.call('TIME'), tonumber(ARGV[6]), tonumber(ARGV[7])
local token = ARGV[5] .. redis.call('HINCRBY', KEYS[1], 'fence', 1)
local now, mine, found = time[1] * 1000 + math.floor(time[2] / 1000), 0, {}
for at = 8, #ARGV do
  local claim, is = ARGV[4] .. ARGV[at], '-'
  if ARGV[2] ~= '' and redis.call('EXISTS', ARGV[3] .. ARGV[at]) == 1 then is = 's'
  elseif redis.call('EXISTS', claim) == 1 then is = 't'
  elseif mine < most then
    redis.call('SET', claim, token, 'NX', 'PX', lease)
    is, mine = 'm', mine + 1
  end
  found[#found + 1] = is
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local others = redis.call('ZCARD', KEYS[2])
if mine > 0 then
  redis.call('ZADD', KEYS[2], now + lease, token)
  redis.call('PEXPIRE', KEYS[2], 2 * lease)
end
local told = redis.call('HMGET', KEYS[3], 'computed', 'seconds')
return {table.concat(found), token, others, told[1] or '0', told[2] or '0'}
"""

RENEW = """
-- KEYS: owners. ARGV: start of claim keys, token, ms of the lease, then digests. How many are left.
local time, left = redis.call('TIME'), 0
for at = 4, #ARGV do
  local key = ARGV[1] .. ARGV[at]
  if redis.call('GET', key) == ARGV[2] then left = left + redis.call('PEXPIRE', key, ARGV[3]) end
end
if left > 0 then
  redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], 2 * ARGV[3])
end
return left
"""

RELEASE = """
-- KEYS: owners. ARGV: start of claim keys, token, then digests.
-- The token is compared, as a lease that has run out may be another's by now.
for at = 3, #ARGV do
  local key = ARGV[1] .. ARGV[at]
  if redis.call('GET', key) == ARGV[2] then redis.call('UNLINK', key) end
end
redis.call('ZREM', KEYS[1], ARGV[2])
return 1
"""

DELETE = """
-- KEYS: counters. ARGV: start of row keys, then digests. How many there were.
local gone = 0
for at = 2, #ARGV do gone = gone + redis.call('UNLINK', ARGV[1] .. ARGV[at]) end
if gone > 0 then redis.call('HINCRBY', KEYS[1], 'entries', -gone) end
return gone
"""

DROP = """
-- KEYS: counters. ARGV: start of row keys, then digest and value of each. How many there were.
local gone = 0
for at = 2, #ARGV, 2 do
  local key = ARGV[1] .. ARGV[at]
  if redis.call('GET', key) == ARGV[at + 1] then gone = gone + redis.call('UNLINK', key) end
end
if gone > 0 then redis.call('HINCRBY', KEYS[1], 'entries', -gone) end
return gone
"""

FORGET = """
-- KEYS: store. ARGV: namespace id, its entry. Whether it was still there.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
