-- Requests whose Cookie, Referer and User-Agent differ from one to the next, as they do when
-- the clients are many people. 20,000 are prepared beforehand: more than a cache of field
-- lines ought to keep.

local folder = debug.getinfo(1, "S").source:match("^@(.*)[/\\]") or "."
dofile(folder .. "/report.lua")

local KINDS = 20000
local prepared = {}
local position = 0

function init(arguments)
  local fields = wrk.headers
  for number = 1, KINDS do
    fields["Cookie"] = string.format("session=%08x%08x; theme=dark; seen=%d",
      number * 2654435761 % 4294967296, number * 40503 % 65536, number)
    fields["Referer"] = "http://127.0.0.1/articles/" .. number
    fields["User-Agent"] = string.format(
      "Mozilla/5.0 (X11; Linux x86_64; rv:%d.0) Gecko/20100101 Firefox/%d.0",
      100 + number % 40, 100 + number % 40)
    prepared[number] = wrk.format(nil, nil, fields)
  end
end

function request()
  position = position % KINDS + 1
  return prepared[position]
end
