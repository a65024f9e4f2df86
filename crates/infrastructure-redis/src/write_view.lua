-- Writes a coupon's claims and its watermark together, if the watermark is the expected one.
-- KEYS: 1 the coupon's hash, 2.. the claims.
-- ARGV: 1 the watermark to find ('' for any), 2 the watermark to leave, 3 when everything final expires (ms since the
-- epoch), 4 how long a deferral stays (ms), 5 whether 6 to 8 are true at the watermark to leave (1 or 0), 6 remaining,
-- 7 status, 8 round, 9.. the values of KEYS 2..
-- Returns {1, nil} once written, else {0, the watermark found or nil}.
local found = redis.call('HGET', KEYS[1], 'watermark')
if ARGV[1] ~= '' and found ~= ARGV[1] then
    return {0, found}
end
for i = 2, #KEYS do
    local value = ARGV[i + 7]
    if string.sub(value, 1, 1) == 'F' then
        redis.call('SET', KEYS[i], value, 'PXAT', ARGV[3])
    else
        -- A deferral stands only over nothing or an older deferral.
        local old = redis.call('GET', KEYS[i])
        local old_offset = old and string.match(old, '^D(%d+)')
        if not old or (old_offset and tonumber(old_offset) < tonumber(string.match(value, '^D(%d+)'))) then
            redis.call('SET', KEYS[i], value, 'PX', ARGV[4])
        end
    end
end
redis.call('HSET', KEYS[1], 'watermark', ARGV[2])
if ARGV[5] == '1' then
    redis.call('HSET', KEYS[1], 'remaining', ARGV[6], 'status', ARGV[7], 'round', ARGV[8])
else
    redis.call('HDEL', KEYS[1], 'remaining', 'status', 'round')
end
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return {1, false}
