-- Writes a coupon's claims and its watermark together, if the watermark and the push are the expected ones.
-- KEYS: 1 the coupon's hash; its buckets are `<hash>:<number>`, in the same slot.
-- ARGV: 1 the watermark to find ('' for any), 2 the push's id, 3 the watermark to leave, 4 when the view expires (ms since the epoch), 5 whether 6 to 8
-- are true at the watermark to leave (1 or 0), 6 remaining, 7 status, 8 round, 9 and 10 how many buckets there are before and after, 11 and 12 the buckets
-- to look at (from, and the one behind the last), 13 most entries of a bucket that takes a deferral, 14 where in ARGV the deferrals begin, 15 how many
-- buckets to make anew, then those · for each final answer, in the order of their buckets, its bucket's number, field and value · the same for deferrals.
-- Returns {1, buckets without the push's id} once written, else {0, the watermark found or nil, the push found or nil}.
local hash, push, expires_at = KEYS[1], ARGV[2], ARGV[4]
local before, after = tonumber(ARGV[9]), tonumber(ARGV[10])
local mark = 'push.' .. push
if ARGV[1] ~= '' then
    local found = redis.call('HMGET', hash, 'watermark', 'push')
    if found[1] ~= ARGV[1] or found[2] ~= push then
        return {0, found[1], found[2]}
    end
else
    -- Of a view that was larger: a smaller ledger is another log's.
    local old = tonumber(redis.call('HGET', hash, 'buckets') or 0) or 0
    for surplus = after, math.min(old, after + 1000) - 1 do
        redis.call('UNLINK', hash .. ':' .. surplus)
    end
end
local half = 1
while half * 2 <= after do
    half = half * 2
end
-- What a whole bucket's mark says: by what the macs that belong there are divided.
local split, unsplit, split_to = tostring(half * 2), tostring(half), after - half
local function divisor(number)
    return (number >= half or number < split_to) and split or unsplit
end
local lost, is_lost = {}, {}
local function lose(number)
    if not is_lost[number] then
        is_lost[number] = true
        lost[#lost + 1] = number
    end
end

local at = 16 + tonumber(ARGV[15])
for i = 16, at - 1 do
    local bucket = hash .. ':' .. ARGV[i]
    redis.call('UNLINK', bucket)
    redis.call('HSET', bucket, mark, divisor(tonumber(ARGV[i])))
    redis.call('PEXPIREAT', bucket, expires_at)
end

-- Each new bucket takes those of one other's claims that have the next bit of their number set.
for new = before, after - 1 do
    local span, exponent = 1, 0
    while span * 2 <= new do
        span, exponent = span * 2, exponent + 1
    end
    local from, to = hash .. ':' .. (new - span), hash .. ':' .. new
    local byte, mask = math.floor(exponent / 8) + 1, 2 ^ (exponent % 8)
    local held = redis.call('HGETALL', from)
    local taken, kept, is_whole = {mark, span * 2}, {mark, span * 2}, false
    for i = 1, #held, 2 do
        local field = held[i]
        if field == mark then
            is_whole = true
        else
            local side = kept
            if #field == 16 and bit.band(string.byte(field, byte), mask) ~= 0 then
                side = taken
            end
            side[#side + 1] = field
            side[#side + 1] = held[i + 1]
        end
    end
    redis.call('UNLINK', to)
    if not is_whole then
        lose(new - span)
        lose(new)
    else
        redis.call('HSET', to, unpack(taken))
        redis.call('PEXPIREAT', to, expires_at)
        -- Cheaper than deleting one by one.
        redis.call('UNLINK', from)
        redis.call('HSET', from, unpack(kept))
        redis.call('PEXPIREAT', from, expires_at)
    end
end

local deferrals = tonumber(ARGV[14])
local first = at
while first < deferrals do
    local number, behind = ARGV[first], first + 3
    while behind < deferrals and ARGV[behind] == number do
        behind = behind + 3
    end
    local bucket = hash .. ':' .. number
    number = tonumber(number)
    -- The mark goes along, for what HSET says of it: a bucket is lost as a whole, so where all fields are new, there was none.
    local count, new = (behind - first) / 3, nil
    if count == 1 then
        new = redis.call('HSET', bucket, mark, divisor(number), ARGV[first + 1], ARGV[first + 2])
    else
        local held = {mark, divisor(number)}
        for i = first, behind - 1, 3 do
            held[#held + 1] = ARGV[i + 1]
            held[#held + 1] = ARGV[i + 2]
        end
        new = redis.call('HSET', bucket, unpack(held))
    end
    if new > count then
        redis.call('UNLINK', bucket)
        lose(number)
    end
    first = behind
end

for i = deferrals, #ARGV, 3 do
    local bucket = hash .. ':' .. ARGV[i]
    if redis.call('HEXISTS', bucket, mark) == 0 then
        lose(tonumber(ARGV[i]))
    else
        -- A deferral stands only over nothing or an older deferral: its offset is bytes 2 to 9.
        local old, new = redis.call('HGET', bucket, ARGV[i + 1]), ARGV[i + 2]
        local has_room = old or redis.call('HLEN', bucket) < tonumber(ARGV[13])
        local is_newer = not old or (string.byte(old) >= 128 and string.sub(old, 2, 9) < string.sub(new, 2, 9))
        if has_room and is_newer then
            redis.call('HSET', bucket, ARGV[i + 1], new)
        end
    end
end

for number = tonumber(ARGV[11]), tonumber(ARGV[12]) - 1 do
    local bucket = hash .. ':' .. number
    if redis.call('HEXISTS', bucket, mark) == 0 then
        lose(number)
    else
        redis.call('PEXPIREAT', bucket, expires_at)
    end
end

redis.call('HSET', hash, 'watermark', ARGV[3], 'push', push, 'buckets', after)
if ARGV[5] == '1' then
    redis.call('HSET', hash, 'remaining', ARGV[6], 'status', ARGV[7], 'round', ARGV[8])
else
    redis.call('HDEL', hash, 'remaining', 'status', 'round')
end
redis.call('PEXPIREAT', hash, expires_at)
return {1, lost}
