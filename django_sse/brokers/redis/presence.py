"""The presence of users in topics, in Redis: the keys, and the scripts that change and read them.

The keys under the prefix (``sse:presence:``) are:

- ``holders``, a sorted set: each holder with the end of its lease, in milliseconds; 0 where some of
  what it has is removed already;
- ``held:<holder>``, a set: the topics and members that a holder has;
- ``here:<topic>``, a hash. A field ``u<user>`` has the holders that have the user, each followed by
  a space, and is empty where the leave is waited for. A field ``a<holder>`` has the number of the
  holder's anonymous streams;
- ``leaving``, a sorted set: the topics and members whose leave is waited for, with the moment.

A topic and its member are separated by U+001F, which no topic contains. All keys expire a thousand
leases after their last use, an hour at least, so that nothing stays where all processes have died.
A renewal uses a hundredth of its holder's topics, at random: each of them ten times in that time
and more, whereas using all of them each time would cost as much as there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_sse.brokers.presence import (
    DUE_LIMIT,
    SWEEP_LIMIT,
    Attended,
    Change,
    Departure,
    Presence,
)

from .script import Names, Script, pack

_SEPARATOR = "\x1f"

#: KEYS: ids.
#: ARGV: known id; the names of events, of newest ids, of channels and of presence; the holder, its
#: lease and the grace in milliseconds; how many users may be due, and entries swept; history, and
#: milliseconds for streams and for newest ids; the number of changes; then of each change its
#: topic, member, number of streams and event; then of each departure its topic, member and event.
#: Returns whether the holder was known, the milliseconds until another lease ends (or ''), the id
#: of the last event (or ''), and the members whose leave is due.
ATTEND = Script("""
local events, newest, channels, prefix = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local me, lease, grace = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local due_limit, budget = ARGV[9], tonumber(ARGV[10])
local history, age, memory = ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[13])
local holders, leaving, mine = prefix .. 'holders', prefix .. 'leaving', prefix .. 'held:' .. me
local time = redis.call('TIME')
local clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ttl = string.format('%.0f', math.max(lease * 1000, 3600000))
local last = ''

local function publish(topic, event)
  local now, ms, seq = state(KEYS[1], ARGV[1])
  local id, before
  id, ms, before = give(KEYS[1], now, ms, seq)
  store(KEYS[1], events .. topic, newest .. topic, id, ms, before, event, history, age, memory)
  redis.call('PUBLISH', channels .. topic, id .. '\\n' .. event)
  last = id
end

local function release(holder, topic, member, due)
  local key = prefix .. 'here:' .. topic
  redis.call('SREM', prefix .. 'held:' .. holder, topic .. '\\31' .. member)
  if member == 'a' then
    redis.call('HDEL', key, 'a' .. holder)
    return
  end
  local list = redis.call('HGET', key, member)
  if not list then return end
  local rest = string.gsub(list, holder .. ' ', '')
  if rest ~= list then redis.call('HSET', key, member, rest) end
  if rest == '' then
    local entry = topic .. '\\31' .. member
    local score = redis.call('ZSCORE', leaving, entry)
    if not score or tonumber(score) > due then redis.call('ZADD', leaving, due, entry) end
  end
end

local function enter(topic, member, streams, event)
  local key = prefix .. 'here:' .. topic
  redis.call('SADD', mine, topic .. '\\31' .. member)
  if member == 'a' then
    redis.call('HSET', key, 'a' .. me, streams)
  else
    local list = redis.call('HGET', key, member)
    if not list then publish(topic, event) end
    list = list or ''
    if not string.find(list, me .. ' ', 1, true) then
      redis.call('HSET', key, member, list .. me .. ' ')
    end
    redis.call('ZREM', leaving, topic .. '\\31' .. member)
  end
  redis.call('PEXPIRE', key, ttl)
end

local at = 15
for _ = 1, tonumber(ARGV[14]) do
  local topic, member, streams, event = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if streams == '0' then
    release(me, topic, member, clock + grace)
  else
    enter(topic, member, streams, event)
  end
  at = at + 4
end
while ARGV[at] do
  local topic, member = ARGV[at], ARGV[at + 1]
  local entry, key = topic .. '\\31' .. member, prefix .. 'here:' .. topic
  local score = redis.call('ZSCORE', leaving, entry)
  if score and tonumber(score) <= clock then
    redis.call('ZREM', leaving, entry)
    -- The field is missing where the key has expired meanwhile.
    if redis.call('HGET', key, member) == '' then
      redis.call('HDEL', key, member)
      publish(topic, ARGV[at + 2])
    end
  end
  at = at + 3
end

local lease_end = tonumber(redis.call('ZSCORE', holders, me) or 0)
local known = lease_end > 0 and 1 or 0
if lease == 0 then
  if redis.call('EXISTS', mine) == 0 then
    redis.call('ZREM', holders, me)
  else
    redis.call('ZADD', holders, 0, me)
  end
  return {known, '', last, {}}
end
-- Many calls in a row renew the lease once.
if lease_end < clock + lease * 0.75 or lease_end > clock + lease then
  redis.call('ZADD', holders, clock + lease, me)
  local some = math.ceil(redis.call('SCARD', mine) / 100)
  if some > 0 then
    for _, entry in ipairs(redis.call('SRANDMEMBER', mine, some)) do
      redis.call('PEXPIRE', prefix .. 'here:' .. string.match(entry, '^[^\\31]*'), ttl)
    end
  end
end
for _, key in ipairs({holders, leaving, mine}) do redis.call('PEXPIRE', key, ttl) end
if lease_end < clock then return {known, '', last, {}} end

local dead = redis.call('ZRANGEBYSCORE', holders, '-inf', '(' .. clock, 'LIMIT', 0, 10)
for _, holder in ipairs(dead) do
  local held = prefix .. 'held:' .. holder
  if budget > 0 then
    for _, entry in ipairs(redis.call('SRANDMEMBER', held, budget)) do
      local topic, member = string.match(entry, '^([^\\31]*)\\31(.*)$')
      release(holder, topic, member, clock)
      budget = budget - 1
    end
  end
  if redis.call('EXISTS', held) == 0 then
    redis.call('ZREM', holders, holder)
  else
    -- A holder that comes back in the middle of this must tell everything again.
    redis.call('ZADD', holders, 0, holder)
  end
end
local wait = ''
for _, holder in ipairs(redis.call('ZRANGE', holders, 0, 1)) do
  if holder ~= me and wait == '' then
    local left = tonumber(redis.call('ZSCORE', holders, holder)) - clock
    wait = string.format('%.0f', math.max(left, 0))
  end
end
return {
  known, wait, last, redis.call('ZRANGEBYSCORE', leaving, '-inf', clock, 'LIMIT', 0, due_limit)
}
""")

#: KEYS: the topic's hash. ARGV: the name of presence, the topic.
#: Returns the number of anonymous streams, and the members.
PRESENT = Script("""
local prefix, topic = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local alive = {}
for _, holder in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'holders', clock, '+inf')) do
  alive[holder] = true
end
local anonymous, members = 0, {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local member, value = fields[i], fields[i + 1]
  if string.sub(member, 1, 1) == 'a' then
    if alive[string.sub(member, 2)] then anonymous = anonymous + tonumber(value) end
  elseif value == '' then
    local score = redis.call('ZSCORE', prefix .. 'leaving', topic .. '\\31' .. member)
    if score and tonumber(score) > clock then members[#members + 1] = member end
  else
    for holder in string.gmatch(value, '%w+') do
      if alive[holder] then
        members[#members + 1] = member
        break
      end
    end
  end
end
return {anonymous, members}
""")


def arguments(
    names: Names,
    limits: Sequence[int],
    holder: str,
    changes: Sequence[Change],
    departures: Sequence[Departure],
    lease: float,
    grace: float,
) -> list[Any]:
    """Return the arguments of ``ATTEND`` after the known id; ``lease`` and ``grace`` are in seconds."""
    args: list[Any] = [names.events, names.newest, names.channels, names.presence]
    args += [holder, int(lease * 1000), int(grace * 1000), DUE_LIMIT, SWEEP_LIMIT, *limits]
    args.append(len(changes))
    for topic, user, streams, head in changes:
        member = "a" if user is None else f"u{user}"
        args += [topic, member, streams, pack([topic], head, b"", None)]
    for departure in departures:
        event = pack([departure.topic], departure.head, b"", None)
        args += [departure.topic, f"u{departure.user}", event]
    return args


def keys_of(names: Names, topic: str) -> tuple[list[str], list[str]]:
    """Return the keys and the arguments of ``PRESENT``."""
    return [f"{names.presence}here:{topic}"], [names.presence, topic]


def answer(reply: Any) -> tuple[bytes, Attended]:
    """Return the id of the last event, if there is one, and what ``ATTEND`` said."""
    known, wait, last, members = reply
    due = [member.decode().split(_SEPARATOR, 1) for member in members]
    return last, Attended(
        bool(known),
        [(topic, member[1:]) for topic, member in due],
        int(wait) / 1000 if wait else None,
    )


def found(reply: Any) -> Presence:
    """Return what ``PRESENT`` said."""
    anonymous, members = reply
    return Presence(tuple(sorted(member.decode()[1:] for member in members)), anonymous)
