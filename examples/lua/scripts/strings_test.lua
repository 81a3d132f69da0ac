-- Patterns, formats and the built-in prelude.
local prelude = require("prelude")

local words = {}
for word in ("one two  three"):gmatch("%a+") do
    words[#words + 1] = word
end
assert(table.concat(words, ",") == "one,two,three")
assert(prelude.sum(prelude.map(words, string.len)) == 11)
assert(("%05.1f|%-4s|%x"):format(3.14159, "ab", 255) == "003.1|ab  |ff")
assert(("key = value"):match("^(%w+)%s*=%s*(%w+)$") == "key")
assert(utf8.len("größe") == 5 and #"größe" == 7)
assert(not pcall(string.rep, "x", -1, {}))
