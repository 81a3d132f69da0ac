-- usage: coroutines_test.lua COUNT. A generator of Fibonacci numbers against the recursive definition.
local count = tonumber(arg[1])

local function fibonacci(n)
    return n < 2 and n or fibonacci(n - 1) + fibonacci(n - 2)
end

local numbers = coroutine.wrap(function()
    local a, b = 0, 1
    while true do
        coroutine.yield(a)
        a, b = b, a + b
    end
end)

for n = 0, count do
    local number = numbers()
    assert(number == fibonacci(n), ("%d: %d"):format(n, number))
end
