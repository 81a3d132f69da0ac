-- Built into the interpreter: require("prelude").
local prelude = {}

function prelude.sum(list)
    local total = 0
    for _, value in ipairs(list) do
        total = total + value
    end
    return total
end

function prelude.map(list, f)
    local mapped = {}
    for i, value in ipairs(list) do
        mapped[i] = f(value)
    end
    return mapped
end

return prelude
