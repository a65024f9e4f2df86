-- Looks for claims, together with what the coupon's hash says of the view.
-- KEYS: 1 the coupon's hash; its buckets are `<hash>:<number>`, in the same slot.
-- ARGV: for each claim the number that decides about its bucket, and its field.
-- Returns {watermark or nil, round or nil, for each claim its value or nil, for each claim whether its bucket is whole (1 or 0)}.
local hash = redis.call('HMGET', KEYS[1], 'watermark', 'round', 'push', 'buckets')
local push, count = hash[3], tonumber(hash[4] or 0) or 0
local values, whole = {}, {}
local half = 1
while half * 2 <= count do
    half = half * 2
end
for i = 1, #ARGV, 2 do
    local found = {false, false}
    if push and count > 0 then
        local number = tonumber(ARGV[i]) % (half * 2)
        if number >= count then
            number = number % half
        end
        found = redis.call('HMGET', KEYS[1] .. ':' .. number, 'push.' .. push, ARGV[i + 1])
    end
    values[#values + 1] = found[2]
    whole[#whole + 1] = found[1] and 1 or 0
end
return {hash[1], hash[2], values, whole}
