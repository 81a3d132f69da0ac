-- usage: primes.lua LIMIT. Prints the primes up to LIMIT, one a line.
local composite = {}
for n = 2, tonumber(arg[1]) do
    if not composite[n] then
        print(n)
        for multiple = n * n, tonumber(arg[1]), n do
            composite[multiple] = true
        end
    end
end
