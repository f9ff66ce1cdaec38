-- Sliding windows, for several calls at once: a call is counted by all of its quotas, or refused and counted by none.
--
-- KEYS  the key of each quota, call after call
-- ARGV  the time in microseconds, empty for the server's own; a token that no other batch has; then for each call
--       how many quotas it has, and of each how many calls it admits in how many microseconds, and how many
--       were admitted already while they could not be counted here
--
-- Answers two numbers for each quota: how many more calls it admits (-1 where it refuses this one), and
-- microseconds until it admits more.

local LOGGED = 1000 -- the largest quota that is counted exactly, with the time of each call

local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end

local function add_to_log(quota, member, calls)
    for index = 1, calls do
        redis.call('ZADD', quota.key, now, member .. ':' .. index)
    end
    redis.call('PEXPIRE', quota.key, math.ceil(quota.window / 1000))
end

-- The times of all calls within the window.
local function look_at_log(quota, member)
    if quota.owed > 0 then add_to_log(quota, member .. ':owed', quota.owed) end
    redis.call('ZREMRANGEBYSCORE', quota.key, '-inf', now - quota.window)
    local count = redis.call('ZCARD', quota.key)
    quota.left = quota.limit - count
    -- The call that leaves the window as the next that frees a place.
    local index = math.max(0, -quota.left)
    local oldest = redis.call('ZRANGE', quota.key, index, index, 'WITHSCORES')
    quota.reset = oldest[2] and oldest[2] + quota.window - now or quota.window
end

-- Two cells of the window's length: the previous one counts as far as the window still reaches into it.
local function look_at_counter(quota)
    local kept = redis.call('GET', quota.key)
    local cell, current, previous = string.match(kept or '-2 0 0', '(%S+) (%S+) (%S+)')
    quota.cell = math.floor(now / quota.window)
    local age = quota.cell - cell
    quota.current = (age <= 0 and tonumber(current) or 0) + quota.owed
    quota.previous = age <= 0 and tonumber(previous) or age == 1 and tonumber(current) or 0
    local gone = now % quota.window / quota.window
    quota.left = quota.limit - quota.current - math.ceil(quota.previous * (1 - gone))
    local after = quota.limit - 1 - quota.current -- what may be left of the previous cell for one more call
    if quota.left > 0 then
        quota.reset = (1 - gone) * quota.window
    elseif after >= 0 then
        quota.reset = (1 - after / quota.previous - gone) * quota.window
    else
        quota.reset = (2 - gone - (quota.limit - 1) / quota.current) * quota.window
    end
end

local function add_to_counter(quota, calls)
    local kept = string.format('%d %d %d', quota.cell, quota.current + calls, quota.previous)
    redis.call('SET', quota.key, kept, 'PX', math.ceil(quota.window / 500))
end

local answer = {}
local key, argument, call = 1, 3, 0
while argument <= #ARGV do
    local quotas, admitted = {}, true
    call = call + 1
    local member = ARGV[2] .. ':' .. call
    for index = 1, tonumber(ARGV[argument]) do
        local quota = {
            key = KEYS[key],
            limit = tonumber(ARGV[argument + 3 * index - 2]),
            window = tonumber(ARGV[argument + 3 * index - 1]),
            owed = tonumber(ARGV[argument + 3 * index]),
        }
        if quota.limit <= LOGGED then look_at_log(quota, member) else look_at_counter(quota) end
        admitted = admitted and quota.left > 0
        quotas[index] = quota
        key = key + 1
    end
    argument = argument + 1 + 3 * #quotas
    local calls = admitted and 1 or 0
    for _, quota in ipairs(quotas) do
        if quota.limit > LOGGED then
            if calls + quota.owed > 0 then add_to_counter(quota, calls) end
        elseif admitted then
            add_to_log(quota, member, calls)
        end
        answer[#answer + 1] = quota.left <= 0 and -1 or quota.left - calls
        answer[#answer + 1] = math.max(1, math.ceil(quota.reset))
    end
end
return answer
