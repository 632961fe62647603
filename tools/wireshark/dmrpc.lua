-- Explains DmRPC packets (version 1 of the protocol) to Wireshark and tshark.
--
--   tshark -X lua_script:tools/wireshark/dmrpc.lua -r FILE -Y dmrpc
--
-- Captures come from any network card, or from `--pcap FILE` of dmrpc-mn and dmrpc-cn. The formats
-- are those of core/src/wire: packet.rs, message.rs, memory_op, reference.rs.

local HEADER_BYTES = 48
local REQUEST_HEADER_BYTES = 32
local RESPONSE_HEADER_BYTES = 8
local ARG_BYTES = 8
local REF_BYTES = 64
local STEP_BYTES = 32
local METHOD_MEMORY = 0xFF01

local kinds = {
    [1] = "Hello", [2] = "HelloAck", [3] = "Refuse", [4] = "Request", [5] = "Response",
    [6] = "RequestAck", [7] = "ResponseAck", [8] = "Busy", [9] = "Cancel", [10] = "Done",
    [11] = "Ping", [12] = "Pong", [13] = "Bye", [14] = "Reset", [15] = "Challenge",
}
local HELLO, REQUEST, RESPONSE, PING, PONG, BYE = 1, 4, 5, 11, 12, 13
-- Beside the kind of an encrypted packet, and what such a packet has at its end.
local SEALED, SEAL_BYTES = 0x80, 16
local methods = { [0xFF01] = "memory", [0xFF02] = "statistics" }
local statuses = {
    [0] = "OK", [1] = "unknown method", [2] = "malformed", [3] = "too deep", [4] = "deadline",
    [5] = "cancelled", [6] = "answer too large", [7] = "nested failed",
}
local operations = {
    [1] = "alloc", [2] = "free", [3] = "read", [4] = "write", [5] = "create_ref", [6] = "map_ref",
    [7] = "claim_ref", [8] = "detach", [9] = "drop_ref", [10] = "narrow", [11] = "read_ref",
}

local dmrpc = Proto("dmrpc", "DmRPC")
local f = {
    version = ProtoField.uint8("dmrpc.version", "Version"),
    kind = ProtoField.uint8("dmrpc.kind", "Kind", base.DEC, kinds, 0x7F),
    encrypted = ProtoField.bool("dmrpc.encrypted", "Encrypted", 8, nil, 0x80),
    number = ProtoField.uint64("dmrpc.number", "Number of the packet"),
    sealed = ProtoField.bytes("dmrpc.sealed", "Encrypted bytes"),
    seal = ProtoField.bytes("dmrpc.seal", "Tag (AES-128-GCM)"),
    flags = ProtoField.uint16("dmrpc.flags", "Flags", base.HEX),
    payload_check = ProtoField.bool("dmrpc.flags.payload_check", "Payload check", 16, nil, 1),
    authenticated = ProtoField.bool("dmrpc.flags.authenticated", "Authenticated", 16, nil, 2),
    probe = ProtoField.bool("dmrpc.flags.probe", "Probe", 16, nil, 4),
    working = ProtoField.bool("dmrpc.flags.working", "Working", 16, nil, 8),
    holds = ProtoField.bool("dmrpc.flags.holds", "Holds", 16, nil, 16),
    declined = ProtoField.bool("dmrpc.flags.declined", "Declined", 16, nil, 32),
    early = ProtoField.bool("dmrpc.flags.early", "Early", 16, nil, 64),
    duplicate = ProtoField.bool("dmrpc.flags.duplicate", "Duplicate", 16, nil, 128),
    session = ProtoField.uint32("dmrpc.session", "Session (receiver's index)"),
    generation = ProtoField.uint32("dmrpc.generation", "Generation"),
    grant = ProtoField.uint32("dmrpc.grant", "Grant (packets)"),
    tag = ProtoField.uint64("dmrpc.tag", "Authentication tag", base.HEX),
    request = ProtoField.uint64("dmrpc.request", "Request number"),
    call = ProtoField.uint64("dmrpc.call", "Call"),
    attempt = ProtoField.uint8("dmrpc.attempt", "Attempt"),
    slot = ProtoField.uint16("dmrpc.slot", "Slot"),
    payload = ProtoField.uint16("dmrpc.payload", "Payload (bytes)"),
    message = ProtoField.uint32("dmrpc.message", "Message (bytes)"),
    clock = ProtoField.uint32("dmrpc.clock", "Server's clock (65.536 us)"),
    packet = ProtoField.uint16("dmrpc.packet", "Packet"),
    head = ProtoField.uint16("dmrpc.head", "Head (bytes)"),
    check = ProtoField.uint32("dmrpc.check", "Check (CRC32C)", base.HEX),
    incarnation = ProtoField.uint64("dmrpc.incarnation", "Incarnation"),
    method = ProtoField.uint16("dmrpc.method", "Method", base.HEX, methods),
    depth = ProtoField.uint8("dmrpc.depth", "Depth"),
    args = ProtoField.uint8("dmrpc.args", "Arguments"),
    deadline = ProtoField.uint32("dmrpc.deadline_us", "Deadline (us)"),
    trace = ProtoField.bytes("dmrpc.trace", "Trace id"),
    status = ProtoField.uint16("dmrpc.status", "Status", base.HEX, statuses),
    reference = ProtoField.bytes("dmrpc.ref", "Reference"),
    ref_node = ProtoField.uint32("dmrpc.ref.memory_node", "Memory node"),
    ref_index = ProtoField.uint32("dmrpc.ref.index", "Entry"),
    ref_incarnation = ProtoField.uint64("dmrpc.ref.incarnation", "Incarnation"),
    ref_generation = ProtoField.uint64("dmrpc.ref.generation", "Generation"),
    ref_offset = ProtoField.uint64("dmrpc.ref.offset", "Offset (bytes)"),
    ref_length = ProtoField.uint64("dmrpc.ref.length", "Length (bytes)"),
    ref_rights = ProtoField.uint8("dmrpc.ref.rights", "Rights", base.HEX),
    step = ProtoField.uint8("dmrpc.step", "Step", base.DEC, operations),
    step_region = ProtoField.uint64("dmrpc.step.region", "Region", base.HEX),
    step_offset = ProtoField.uint64("dmrpc.step.offset", "Offset (bytes)"),
    step_length = ProtoField.uint64("dmrpc.step.length", "Length (bytes)"),
    body = ProtoField.bytes("dmrpc.body", "Body"),
}
local all = {}
for _, field in pairs(f) do
    table.insert(all, field)
end
dmrpc.fields = all

local bad_length = ProtoExpert.new(
    "dmrpc.bad_length", "The length field disagrees with the datagram", expert.group.MALFORMED,
    expert.severity.ERROR)
local bad_kind = ProtoExpert.new(
    "dmrpc.bad_kind", "No packet is of this kind", expert.group.MALFORMED, expert.severity.ERROR)
dmrpc.experts = { bad_length, bad_kind }

local function reference(buffer, tree)
    local ref = tree:add(f.reference, buffer)
    ref:add_le(f.ref_node, buffer(0, 4))
    ref:add_le(f.ref_index, buffer(4, 4))
    ref:add_le(f.ref_incarnation, buffer(8, 8))
    ref:add_le(f.ref_generation, buffer(16, 8))
    ref:add_le(f.ref_offset, buffer(24, 8))
    ref:add_le(f.ref_length, buffer(32, 8))
    ref:add(f.ref_rights, buffer(40, 1))
end

-- Memory operations: returns their names.
local function steps(buffer, tree)
    local names = {}
    for at = 0, buffer:len() - STEP_BYTES, STEP_BYTES do
        local number = buffer(at, 1):uint()
        local step = tree:add(f.step, buffer(at, 1))
        if buffer(at + 3, 1):uint() == 0xFF then
            step:add_le(f.step_region, buffer(at + 8, 8))
        end
        step:add_le(f.step_offset, buffer(at + 16, 8))
        step:add_le(f.step_length, buffer(at + 24, 8))
        table.insert(names, operations[number] or ("operation " .. number))
    end
    return table.concat(names, ", ")
end

-- The argument table, and the references behind it. Returns where the parameters begin.
local function arguments(buffer, tree, count, at)
    local refs = at + count * ARG_BYTES
    for number = 0, count - 1 do
        local place = at + number * ARG_BYTES
        if place + ARG_BYTES > buffer:len() then
            return buffer:len()
        end
        -- An argument is a reference, or so many bytes of the body.
        if buffer(place, 1):uint() == 1 and refs + REF_BYTES <= buffer:len() then
            reference(buffer(refs, REF_BYTES), tree)
            refs = refs + REF_BYTES
        end
    end
    return math.min(refs, buffer:len())
end

local function request_head(buffer, tree)
    if buffer:len() < REQUEST_HEADER_BYTES then
        return ""
    end
    local method = buffer(0, 2):le_uint()
    tree:add_le(f.method, buffer(0, 2))
    tree:add(f.depth, buffer(2, 1))
    tree:add(f.args, buffer(3, 1))
    tree:add_le(f.deadline, buffer(4, 4))
    tree:add(f.trace, buffer(8, 16))
    local at = arguments(buffer, tree, buffer(3, 1):uint(), REQUEST_HEADER_BYTES)
    if method == METHOD_MEMORY and at < buffer:len() then
        return steps(buffer(at, buffer:len() - at), tree)
    end
    return methods[method] or string.format("method %d", method)
end

local function response_head(buffer, tree)
    if buffer:len() < RESPONSE_HEADER_BYTES then
        return ""
    end
    local status = buffer(0, 2):le_uint()
    tree:add_le(f.status, buffer(0, 2))
    tree:add(f.args, buffer(2, 1))
    arguments(buffer, tree, buffer(2, 1):uint(), RESPONSE_HEADER_BYTES)
    return statuses[status] or string.format("status 0x%x", status)
end

-- What every packet has in clear.
local function front(buffer, tree)
    tree:add(f.version, buffer(0, 1))
    tree:add(f.kind, buffer(1, 1))
    tree:add(f.encrypted, buffer(1, 1))
    local flags = tree:add_le(f.flags, buffer(2, 2))
    for _, flag in ipairs({
        "payload_check", "authenticated", "probe", "working", "holds", "declined", "early",
        "duplicate",
    }) do
        flags:add_le(f[flag], buffer(2, 2))
    end
    tree:add_le(f.session, buffer(4, 4))
    tree:add_le(f.generation, buffer(8, 4))
    tree:add_le(f.grant, buffer(12, 4))
end

local function header(buffer, tree)
    front(buffer, tree)
    tree:add_le(f.tag, buffer(16, 8))
    local request = tree:add_le(f.request, buffer(24, 8))
    request:add(f.attempt, buffer(24, 1))
    request:add_le(f.call, buffer(24, 8), buffer(24, 8):le_uint64():rshift(8))
    tree:add_le(f.slot, buffer(32, 2))
    tree:add_le(f.payload, buffer(34, 2))
    local kind = buffer(1, 1):uint()
    tree:add_le((kind == PING or kind == PONG) and f.clock or f.message, buffer(36, 4))
    tree:add_le(f.packet, buffer(40, 2))
    tree:add_le(f.head, buffer(42, 2))
    tree:add_le(f.check, buffer(44, 4))
end

-- A packet of a session that encrypts: its kind, its session and its number are all there is to see.
-- Pings and goodbyes have the whole header in clear.
local function encrypted(buffer, pinfo, tree, kind)
    local length = buffer:len()
    front(buffer, tree)
    tree:add_le(f.number, buffer(16, 8))
    local at = 24
    if kind == PING or kind == BYE then
        tree:add_le(f.request, buffer(24, 8))
        at = HEADER_BYTES
    end
    if length - SEAL_BYTES > at then
        tree:add(f.sealed, buffer(at, length - SEAL_BYTES - at))
    end
    tree:add(f.seal, buffer(length - SEAL_BYTES, SEAL_BYTES))
    pinfo.cols.info = string.format(
        "%s session %d, encrypted, number %s", kinds[kind], buffer(4, 4):le_uint(),
        tostring(buffer(16, 8):le_uint64()))
    return length
end

-- The kind of an encrypted packet; nil if it is none.
local function sealed_kind(buffer)
    local kind = buffer(1, 1):uint() - SEALED
    return buffer:len() >= HEADER_BYTES + SEAL_BYTES and kinds[kind] and kind or nil
end

local function dissect(buffer, pinfo, root)
    local length = buffer:len()
    if length < HEADER_BYTES or buffer(0, 1):uint() ~= 1 then
        return 0
    end
    pinfo.cols.protocol = "DmRPC"
    local tree = root:add(dmrpc, buffer())
    local kind = sealed_kind(buffer)
    if kind then
        return encrypted(buffer, pinfo, tree, kind)
    end
    header(buffer, tree)
    kind = buffer(1, 1):uint()
    local payload = length - HEADER_BYTES
    if not kinds[kind] then
        tree:add_proto_expert_info(bad_kind)
    end
    if buffer(34, 2):le_uint() ~= payload then
        tree:add_proto_expert_info(bad_length)
        pinfo.cols.info = (kinds[kind] or "?") .. ", wrong length"
        return length
    end
    local packet, head = buffer(40, 2):le_uint(), buffer(42, 2):le_uint()
    local what = ""
    if (kind == REQUEST or kind == RESPONSE) and packet == 0 and head > 0 and head <= payload then
        local bytes = buffer(HEADER_BYTES, head)
        what = kind == REQUEST and request_head(bytes, tree) or response_head(bytes, tree)
        if payload > head then
            tree:add(f.body, buffer(HEADER_BYTES + head, payload - head))
        end
    elseif kind == HELLO and payload >= 8 then
        tree:add_le(f.incarnation, buffer(HEADER_BYTES, 8))
    elseif payload > 0 then
        tree:add(f.body, buffer(HEADER_BYTES, payload))
    end
    local place = string.format(
        "session %d slot %d call %s", buffer(4, 4):le_uint(), buffer(32, 2):le_uint(),
        tostring(buffer(24, 8):le_uint64():rshift(8)))
    pinfo.cols.info = string.format("%s %s %s", kinds[kind] or "?", place, what)
    return length
end

function dmrpc.dissector(buffer, pinfo, root)
    return dissect(buffer, pinfo, root)
end

-- Ports are anybody's choice: a packet is ours if it looks like it.
local function looks_like_ours(buffer, pinfo, root)
    if buffer:len() < HEADER_BYTES or buffer(0, 1):uint() ~= 1 then
        return false
    end
    -- The length of an encrypted packet cannot be read.
    local whole = buffer(34, 2):le_uint() == buffer:len() - HEADER_BYTES
    if not sealed_kind(buffer) and not (kinds[buffer(1, 1):uint()] and whole) then
        return false
    end
    dissect(buffer, pinfo, root)
    return true
end

dmrpc:register_heuristic("udp", looks_like_ours)
DissectorTable.get("udp.port"):add_for_decode_as(dmrpc)
