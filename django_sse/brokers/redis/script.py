"""The data in Redis, and the scripts that read or write it in one step each.

The keys under the prefix (``sse:``) are:

- ``ids``, a hash: ``last``, the newest id; ``birth``, the id at which the data begins, so that
  nothing is known of lower ids; ``evictions``, how many keys Redis had evicted when it was last
  asked; and ``evicted``, the newest id at the time when that number was last found to have grown;
- ``events:<topic>``, a stream: the topic's last events under their ids. Each entry has the id of
  the topic's ``previous`` event, so that the oldest entry says up to which id the topic was
  trimmed;
- ``once:<idempotency key>``, a string: the id of the event that was published with the key;
- ``presence:…``, which the module ``presence`` describes;
- ``newest:<topic>``, a string: the id of the topic's newest event. It outlives the stream. After
  the stream has expired, it says up to which id the topic's events are gone.

Ids contain a time in milliseconds. The expiry of data is set from the id, not from the clock, so
that the two agree also where the clock went back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from django_sse.brokers.base import EventId, Message

# Numbers in Lua are doubles, exact up to 2**53. Milliseconds reach that in 285,000 years.
_PRELUDE = """
local function parse(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function text(ms, seq)
  return string.format('%.0f-%.0f', ms, seq)
end

-- Returns how many keys Redis has evicted; '0' where the user may not ask.
local function evictions()
  local stats = redis.pcall('INFO', 'stats')
  if type(stats) ~= 'string' then return '0' end
  return string.match(stats, 'evicted_keys:(%d+)') or '0'
end

-- Returns the id up to which events of a topic may be gone of which nothing is known: neither its
-- events nor its newest id. '0-0' where Redis has evicted nothing: such a topic was quiet.
-- The number begins anew with the process of Redis.
local function evicted(key, newest)
  local count = evictions()
  local seen = redis.call('HMGET', key, 'evictions', 'evicted')
  if (seen[1] or '0') ~= count then
    redis.call('HSET', key, 'evictions', count)
    if count ~= '0' then
      redis.call('HSET', key, 'evicted', newest)
      return newest
    end
  end
  return seen[2] or '0-0'
end

-- Returns the time, the newest id that was given, and the birth of the data.
-- Where Redis is empty, or came back with less than the caller already saw (a failover, a power
-- cut), a new age begins: above every id ever given (hence + 1), so that old ids are known as such.
local function state(key, known)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local known_ms, known_seq = parse(known)
  local ids = redis.call('HMGET', key, 'birth', 'last')
  if ids[1] and ids[2] then
    local ms, seq = parse(ids[2])
    if ms > known_ms or (ms == known_ms and seq >= known_seq) then
      return now, ms, seq, ids[1]
    end
  end
  local ms = math.max(now, known_ms) + 1
  local birth = text(ms, 0)
  redis.call('HSET', key, 'birth', birth, 'last', birth, 'evictions', evictions())
  return now, ms, 0, birth
end

-- Gives an id above all others. Returns it, its milliseconds, and the newest id before it.
local function give(key, now, ms, seq)
  local before = text(ms, seq)
  if now > ms then ms, seq = now, 0 else seq = seq + 1 end
  local id = text(ms, seq)
  redis.call('HSET', key, 'last', id)
  return id, ms, before
end

-- Stores an event in the stream of a topic, for 'age' milliseconds, and its id for 'memory'.
local function store(key, stream, newest, id, ms, before, event, history, age, memory)
  local previous = redis.call('GET', newest) or evicted(key, before)
  redis.call('XADD', stream, 'MAXLEN', '=', history, id, 'previous', previous, 'event', event)
  redis.call('XTRIM', stream, 'MINID', '=', text(math.max(ms - age, 0), 0))
  redis.call('PEXPIREAT', stream, string.format('%.0f', ms + age))
  redis.call('SET', newest, id, 'PXAT', string.format('%.0f', ms + memory))
end
"""


class Script:
    """A Lua script, with the commands that run it."""

    def __init__(self, body: str) -> None:
        """Take the script's own lines; the common functions are put before them."""
        self.text = _PRELUDE + body
        # Redis names scripts by their SHA-1. It serves no security.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def by_name(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        """Return the command that runs the script if Redis knows it already."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def in_full(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        """Return the command that runs the script and lets Redis know it."""
        return ("EVAL", self.text, len(keys), *keys, *args)


#: Gives an id, stores, trims, and distributes; returns the id.
#: KEYS: ids, then stream and newest of each topic, then the key under which the event's id is
#: remembered, where it has an idempotency key.
#: ARGV: known id, event, history, milliseconds for streams and for newest ids, then the channels.
PUBLISH = Script("""
local once = #KEYS % 2 == 0 and KEYS[#KEYS]
local now, ms, seq = state(KEYS[1], ARGV[1])
local first = once and redis.call('GET', once)
if first then return first end
local event, history, age, memory = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local id, before
id, ms, before = give(KEYS[1], now, ms, seq)
for i = 2, #KEYS - 1, 2 do
  store(KEYS[1], KEYS[i], KEYS[i + 1], id, ms, before, event, history, age, memory)
end
if once then
  redis.call('SET', once, id, 'PXAT', string.format('%.0f', ms + age))
end
for i = 6, #ARGV do
  redis.call('PUBLISH', ARGV[i], id .. '\\n' .. event)
end
return id
""")

#: Returns the newest id. An id that is a day old is replaced by a new one, so that no page gets a
#: cursor that will soon be forgotten.
#: KEYS: ids. ARGV: known id.
LATEST = Script("""
local now, ms, seq = state(KEYS[1], ARGV[1])
if now - ms > 86400000 then
  ms, seq = now, 0
  redis.call('HSET', KEYS[1], 'last', text(ms, seq))
end
return text(ms, seq)
""")

#: Returns the time, the newest id, the birth, and of each topic up to where it is trimmed, its
#: newest id ('0-0' where it is forgotten) and a page of its entries.
#: KEYS: ids, then stream and newest of each topic.
#: ARGV: known id, highest id wanted or '' for all, entries per page, then the id after which to
#: start in each topic.
READ = Script("""
local now, ms, seq, birth = state(KEYS[1], ARGV[1])
local last = text(ms, seq)
local upto = ARGV[2] ~= '' and ARGV[2] or last
local topics, gone = {}, nil
for i = 2, #KEYS, 2 do
  local oldest = redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', 1)[1]
  local newest = redis.call('GET', KEYS[i + 1])
  if not oldest and not newest then
    gone = gone or evicted(KEYS[1], last)
  end
  local trimmed = oldest and oldest[2][2] or newest or gone
  newest = newest or '0-0'
  local page = redis.call('XRANGE', KEYS[i], '(' .. ARGV[3 + i / 2], upto, 'COUNT', ARGV[3])
  topics[#topics + 1] = {trimmed, newest, page}
end
return {string.format('%.0f', now), last, birth, topics}
""")


#: Returns entries of each stream, the newest first.
#: KEYS: the streams. ARGV: entries per stream, then for each stream where to begin ('+' or an id).
NEWEST = Script("""
local pages = {}
for i = 1, #KEYS do
  pages[i] = redis.call('XREVRANGE', KEYS[i], ARGV[i + 1], '-', 'COUNT', ARGV[1])
end
return pages
""")

#: Begins a new age, because events of the old one may be missing. Returns its first id.
#: KEYS: ids. ARGV: known id.
NEW_AGE = Script("""
local now, ms, seq = state(KEYS[1], ARGV[1])
local birth = text(math.max(now, ms) + 1, 0)
redis.call('HSET', KEYS[1], 'birth', birth, 'last', birth)
return birth
""")


class Names:
    """The names of keys and channels under one prefix."""

    def __init__(self, prefix: str, database: int) -> None:
        """Take the prefix of all keys, and the number of the database."""
        self._prefix = prefix
        # PUBLISH reaches the subscribers of all databases of a server, so the names contain the
        # database.
        self.channels = f"{prefix}{database}:"
        self.ids = f"{prefix}ids"
        #: The beginnings of the names of a topic's keys, and of the keys of presence.
        self.events, self.newest = f"{prefix}events:", f"{prefix}newest:"
        self.presence = f"{prefix}presence:"

    def keys(self, topics: Sequence[str]) -> list[str]:
        """Return the keys that the scripts need for these topics."""
        keys = [self.ids]
        for topic in topics:
            keys += (self.events + topic, self.newest + topic)
        return keys

    def once(self, idempotency_key: str) -> str:
        """Return the key under which the id of an event with an idempotency key is remembered."""
        return f"{self._prefix}once:{idempotency_key}"

    def streams(self, topics: Sequence[str]) -> list[str]:
        """Return the keys of the topics' streams."""
        return [self.events + topic for topic in topics]

    def channel(self, topic: str) -> str:
        """Return the name of the channel that distributes the topic's messages."""
        return self.channels + topic


def pack(
    topics: Sequence[str], head: bytes, tail: bytes, key: str | None, exclude: str | None = None
) -> bytes:
    """Return an event as Redis stores and distributes it, without its id."""
    fields = [topics, key, len(head)]
    if exclude is not None:
        fields.append(exclude)
    return b"%b\n%b%b" % (json.dumps(fields).encode(), head, tail)


def unpack(id: EventId, event: bytes) -> Message:
    """Return the message that ``pack()`` has packed."""
    fields, _, body = event.partition(b"\n")
    topics, key, length, *exclude = json.loads(fields)
    return Message(id, tuple(topics), body[:length], body[length:], key, *exclude)


def event_id(text: bytes) -> EventId:
    """Parse an id that Redis gave."""
    milliseconds, _, sequence = text.partition(b"-")
    return EventId(int(milliseconds), int(sequence))
